"""Sources beyond the batch, in the order of their numbers."""

from dataclasses import dataclass

from jaxtyping import Shaped
from torch import Tensor

from composer_copypaste.functional.bank import InstanceBank
from composer_copypaste.functional.crop import Crop, check_extras
from composer_copypaste.functional.pool import Pool, check_cut_outs_have, cut_out_of
from composer_copypaste.instances import Instances


@dataclass(frozen=True)
class Further:
    """Where objects come from besides the other images of the batch.

    In the plan of a batch of N images its sources are number N, N + 1 and so on, each with one object: those that the
    bank remembers, oldest first, then the cut-outs of the pool.
    """

    bank: InstanceBank | None = None
    pool: Pool | None = None

    def __len__(self) -> int:
        return self._remembered + (0 if self.pool is None else len(self.pool.labels))

    @property
    def _remembered(self) -> int:
        return 0 if self.bank is None else len(self.bank)

    def check(self, instances: Instances) -> None:
        """Raise ``ValueError`` where objects of a batch have other fields than these sources, drawn or not."""
        if self.bank is not None and len(self.bank):
            check_extras(self.bank.newest.fields, instances)
        if self.pool is not None:
            check_cut_outs_have(instances)

    def crop(self, number: int, image: Shaped[Tensor, "c h w"], instances: Instances) -> Crop:
        """A source, on the device and with the types of a batch's image and of its objects."""
        if self.bank is not None and number < self._remembered:
            return self.bank.crop(number).beside(image, instances)
        if self.pool is None:
            raise IndexError(f"there are {len(self)} further sources")
        return cut_out_of(self.pool, number - self._remembered, image, instances)
