"""Copy-paste in Composer's time: how likely it is at a point of the training."""

from fractions import Fraction

from composer.core import State, TimeUnit

from composer_copypaste.settings import CopyPasteSettings
from composer_copypaste.times import parse_time


def scheduled_p(settings: CopyPasteSettings, state: State) -> float:
    """The probability that an image of the current batch receives objects, after warm-up and stop."""
    if settings.stop is not None and has_passed(settings.stop, state) >= 1:
        return 0.0
    return settings.p if settings.warmup is None else settings.p * float(has_passed(settings.warmup, state))


def has_passed(time: str, state: State) -> Fraction:
    """The part of a time, counted from the training's start, that has passed: 1 from its end on."""
    value, unit = parse_time(time)
    now = {"ep": _epochs, "ba": _batches, "dur": _durations}[unit](state)
    return min(now / value, Fraction(1)) if value else Fraction(1)


def _batches(state: State) -> Fraction:
    return Fraction(int(state.timestamp.batch))


def _epochs(state: State) -> Fraction:
    """With the part of the current one, where the loader has a length."""
    whole = Fraction(int(state.timestamp.epoch))
    if state.dataloader_len is None:
        return whole
    return whole + Fraction(int(state.timestamp.batch_in_epoch), int(state.dataloader_len))


def _durations(state: State) -> Fraction:
    """Trainings that last epochs are measured by batches too: Composer's own number moves once an epoch."""
    if state.max_duration is not None and state.max_duration.unit == TimeUnit.EPOCH:
        return _epochs(state) / int(state.max_duration)
    if state.max_duration is not None and state.max_duration.unit == TimeUnit.BATCH:
        return _batches(state) / int(state.max_duration)
    return Fraction(float(state.get_elapsed_duration() or 0))
