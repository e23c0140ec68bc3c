// The official client for JavaScript: makes the calls that it reads as lines of JSON, and writes what came of each.
import { createInterface } from "node:readline";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: process.env.API_KEY, maxRetries: 0, timeout: 60000 });

function failureOf(error) {
  return {
    kind: error.constructor.name,
    status: error.status ?? null,
    code: error.code ?? null,
    param: error.param ?? null,
    message: error.message,
    retry_after: error.headers?.get?.("retry-after") ?? null,
  };
}

async function chunksOf(stream, leaveAfter) {
  const chunks = [];
  for await (const chunk of stream) {
    chunks.push(chunk);
    if (chunks.length === leaveAfter) {
      stream.controller.abort();
      break;
    }
  }
  return chunks;
}

async function make({ route, body, stream, key, leaveAfter }) {
  const asked = key === null ? client : client.withOptions({ apiKey: key });
  if (route === "models") {
    const models = [];
    for await (const model of asked.models.list()) models.push(model);
    return { models };
  }
  if (route === "model") return { answer: await asked.models.retrieve(body.model) };
  const resource = route === "chat" ? asked.chat.completions : asked.completions;
  const answer = await resource.create({ ...body, stream });
  return stream ? { chunks: await chunksOf(answer, leaveAfter) } : { answer };
}

for await (const line of createInterface({ input: process.stdin })) {
  let result;
  try {
    result = await make(JSON.parse(line));
  } catch (error) {
    if (!(error instanceof OpenAI.OpenAIError)) throw error;
    result = { failure: failureOf(error) };
  }
  process.stdout.write(JSON.stringify(result) + "\n");
}
