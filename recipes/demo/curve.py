"""The loss of a run as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path


def draw_losses(runs: Mapping[str, Sequence[tuple[int, float]]], path: Path) -> None:
    """Writes `path`, a PNG with one panel for each run: name -> (step, mean loss) pairs."""
    import matplotlib

    matplotlib.use("Agg")  # no window system on a server
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(runs), figsize=(5.5 * len(runs), 3.6), squeeze=False)
    for panel, (name, losses) in zip(panels[0], runs.items(), strict=True):
        panel.plot([step for step, _ in losses], [loss for _, loss in losses], linewidth=1.2, color="#1f5fbf")
        panel.set(title=name, xlabel="step", ylabel="loss on targets (nats per token)", yscale="log")
        panel.grid(alpha=0.3, which="both")
    figure.tight_layout()
    beside = path.with_name(path.name + ".part")
    figure.savefig(beside, dpi=110, format="png", metadata={"Software": None})
    pyplot.close(figure)
    beside.replace(path)
