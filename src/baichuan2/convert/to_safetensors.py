"""`baichuan2 convert to-safetensors`: the same weights in other files: number format, size of shards, container."""

from baichuan2.convert.output import files_to_copy
from baichuan2.convert.rewriting import Conversion, Converted, Watch, as_they_are, without_code, write_folder
from baichuan2.convert.source import open_source
from baichuan2.settings import ConvertSettings

__all__ = ["to_safetensors"]


def to_safetensors(settings: ConvertSettings, watch: Watch | None = None) -> Converted:
    """Writes the weights of `settings.source` as safetensors; names, shapes and numbers stay.

    Raises: as `open_source` and `write_folder`.
    """
    assert settings.source is not None
    source = open_source(settings.source, revision=settings.revision, offline=settings.offline)
    conversion = Conversion(
        tensors=as_they_are(list(source.shapes)),
        config=without_code(source.fields),
        copied=files_to_copy(source.folder),
    )
    return write_folder(settings, source, conversion, watch)
