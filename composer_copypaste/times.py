"""Times of a training as settings and recipes write them: "8ep", "500ba", "0.9dur" or "90%dur", which is the same."""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema


@dataclass(frozen=True)
class Spelling:
    """How a text has to be written; in an annotation, also what pydantic and its JSON Schema demand."""

    pattern: str
    expected: str

    def checked(self, text: object) -> object:
        """The text itself; ``ValueError`` where it is written otherwise."""
        if not (isinstance(text, str) and re.fullmatch(self.pattern, text)):
            raise ValueError(f"expected {self.expected}, got {text!r}")
        return text

    def __get_pydantic_core_schema__(self, source: object, handler: "GetCoreSchemaHandler") -> "CoreSchema":
        from pydantic_core.core_schema import no_info_before_validator_function

        return no_info_before_validator_function(self.checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: "CoreSchema", handler: "GetJsonSchemaHandler") -> dict[str, Any]:
        return {**handler(schema), "pattern": self.pattern}


DURATION = Spelling(r"^[1-9][0-9]{0,8}(ep|ba)$", "epochs or batches such as '12ep' or '800ba', of at most 9 digits")
TIME = Spelling(
    r"^([0-9]{1,9}(ep|ba)|(0?\.[0-9]+|0|1)dur|(100|[0-9]{1,2}(\.[0-9]+)?)%dur)$",
    "a time such as '8ep', '500ba', '0.9dur' or '90%dur' (of the duration), of at most 9 digits",
)
Duration = Annotated[str, DURATION]
Time = Annotated[str, TIME]


def parse_time(time: str) -> tuple[Fraction, str]:
    """How much of which unit: "ep", "ba" or "dur"; exact, so that nine tenths of ten batches end with the ninth."""
    number = re.split("[a-z%]", time, maxsplit=1)[0]
    if time.endswith("dur"):
        return Fraction(number) / (100 if "%" in time else 1), "dur"
    return Fraction(number), time[-2:]


def composer_time(time: str) -> str:
    """The time as Composer spells it, which knows no percent."""
    value, unit = parse_time(time)
    return f"{float(value)}dur" if unit == "dur" else time
