"""The last lines of a run's log, in the form of PEFT and transformers."""

from collections.abc import Iterator, Mapping, Sequence

from sftjob_trainer.reporting.telemetry import SavedTelemetry


def summary(known: SavedTelemetry, metrics: Mapping[str, float], locations: Sequence[str]) -> Iterator[str]:
    """What was trained, the quality and speed of the run, and where the output is stored."""
    trained, total = known.trainable_parameters, known.parameters
    if trained is not None and total:
        yield f"trainable params: {trained:,} || all params: {total:,} || trainable%: {100 * trained / total:.4f}"
    losses = "; ".join(_losses(known, metrics))
    if losses:
        yield f"final losses: {losses}"
    seconds = metrics.get("trainSeconds", 0.0)
    speed = f", {known.tokens / seconds:,.1f} tokens per second" if seconds > 0 else ""
    yield f"{known.step:,} steps, {known.epoch or 0:.2f} epochs, {known.tokens:,} tokens in {seconds:,.1f} s{speed}"
    yield f"output: {', '.join(locations)}"


def _losses(known: SavedTelemetry, metrics: Mapping[str, float]) -> Iterator[str]:
    mean = metrics.get("trainLoss")
    if known.loss is not None and mean is not None:
        yield f"train {known.loss:.4f} at the last log, {mean:.4f} on average"
    before, after = metrics.get("initialEvalLoss"), metrics.get("evalLoss")
    if before is not None and after is not None:
        yield f"evaluation {before:.4f} before, {after:.4f} after training"
