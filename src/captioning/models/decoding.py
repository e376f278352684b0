"""How captions are generated: declared once for the module, the command line and the server. Needs no torch."""

from dataclasses import asdict, dataclass, fields
from typing import Annotated, NamedTuple, get_args

from annotated_types import BaseMetadata, Ge, Gt, Le
from typing_extensions import Doc

from captioning.errors import UserError, check_arguments


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Settings of ``generate``; a value beyond its limits is a ``UserError``."""

    max_new_tokens: Annotated[int, Ge(1), Doc("Longest caption, in tokens with the end-of-sentence token.")] = 32
    min_new_tokens: Annotated[int, Ge(0), Doc("Shortest caption, in tokens.")] = 0
    num_beams: Annotated[int, Ge(1), Doc("Beams to search with; 1 is greedy.")] = 1
    length_penalty: Annotated[float, Doc("With beams: above 0 favors long captions, below 0 short ones.")] = 1.0
    repetition_penalty: Annotated[float, Gt(0), Doc("Above 1 avoids tokens already in the caption; 1 is off.")] = 1.0
    no_repeat_ngram_size: Annotated[int, Ge(0), Doc("Length of token sequences that may not recur; 0 is off.")] = 0
    temperature: Annotated[float | None, Gt(0), Doc("Samples tokens at random, more evenly the higher.")] = None
    top_p: Annotated[float, Gt(0), Le(1), Doc("Samples from the most probable tokens up to this total.")] = 1.0

    def __post_init__(self) -> None:
        check_arguments(type(self), vars(self), section="model")
        if self.min_new_tokens > self.max_new_tokens:
            raise UserError(
                f"model.min_new_tokens={self.min_new_tokens} must be between 0 and "
                f"model.max_new_tokens={self.max_new_tokens}"
            )

    def arguments(self) -> dict[str, float]:
        """The settings by their names in ``generate``, those that don't apply left out."""
        settings = asdict(self) | {"do_sample": self.temperature is not None}
        # Whatever a checkpoint's own generation config says:
        settings |= {"use_cache": True, "num_return_sequences": 1, "return_dict_in_generate": False}
        if self.temperature is None:
            del settings["temperature"], settings["top_p"]
        else:
            settings["top_k"] = 0  # or transformers would cut sampling to the 50 most probable tokens
        if self.num_beams == 1:
            del settings["length_penalty"]
        return settings


class DecodingSetting(NamedTuple):
    """A field of :class:`Decoding`, for the command line and the server."""

    name: str
    type: type
    limits: list[BaseMetadata]
    description: str


def decoding_settings() -> list[DecodingSetting]:
    """All fields of :class:`Decoding`."""
    settings = []
    for field in fields(Decoding):
        kind, *limits, description = get_args(field.type)
        without_none = (*get_args(kind), kind)[0]
        settings.append(DecodingSetting(field.name, without_none, limits, description.documentation))
    return settings
