"""`baichuan2 convert`: a checkpoint in another layout, for other programs, or out of theirs."""

from baichuan2.cli.commands.plan import size_text
from baichuan2.cli.conversion_text import conversion_words_for
from baichuan2.cli.progress import progress_bar
from baichuan2.cli.screen import accept_any_text, notice, print_json
from baichuan2.settings import ConvertSettings, OutputSettings

SETTINGS = (ConvertSettings, OutputSettings)
EXAMPLES = """\
  baichuan2 convert to-safetensors path/to/model copy           files that hold nothing but numbers
  baichuan2 convert to-safetensors path/to/model one --shard-size whole --dtype float16
  baichuan2 convert to-baichuan1 path/to/model plain-head       for programs that know Baichuan 1 only
  baichuan2 convert to-baichuan1 path/to/model old --container bin   the same in pytorch_model.bin
  baichuan2 convert from-baichuan1 plain-head back              and back, or Baichuan 1 itself
  baichuan2 convert to-llama path/to/7b llama                   for every engine that runs LLaMA
  baichuan2 convert from-llama path/to/llamafied model          a 7B in the Llama layout, for this package
  baichuan2 convert to-gguf path/to/model model.gguf --type q8_0   for llama.cpp
  baichuan2 convert merge-lora path/to/adapter merged           an adapter into the weights, as baichuan2 merge
  baichuan2 convert dequantize path/to/int4 plain               16-bit weights out of fewer bits"""


def run(settings: ConvertSettings, output: OutputSettings) -> int:
    """Writes the folder or file and tells its size; the exit code."""
    accept_any_text()
    words = conversion_words_for(settings.language)
    settings.check_complete()
    unit = words.tensors if settings.way == "to-gguf" else words.files  # by which progress is told
    notice(words.start.format(way=settings.way, source=settings.source, target=settings.target))
    from baichuan2.convert.ways import convert_checkpoint

    try:
        with progress_bar(unit) as show:
            result = convert_checkpoint(settings, show)
    except KeyboardInterrupt:
        notice(words.interrupted.format(target=settings.target))
        raise
    if result.resumed:
        notice(words.resumed.format(count=result.resumed, unit=unit))
    if output.json:
        print_json(
            {
                "way": settings.way,
                "path": str(result.path),
                "source_bytes": result.num_source_bytes,
                "bytes": result.num_bytes,
                "tensors": result.num_tensors,
                "resumed": result.resumed,
                "seconds": result.seconds,
            }
        )
    else:
        before, after = size_text(result.num_source_bytes), size_text(result.num_bytes)
        notice(
            words.done.format(
                target=settings.target,
                before=before,
                after=after,
                count=result.num_tensors,
                seconds=result.seconds,
            )
        )
    return 0
