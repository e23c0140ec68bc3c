"""An HTTP server that speaks OpenAI's protocol, over the engine that everything else uses."""
