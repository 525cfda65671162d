"""The options of `POST /v1/inspect`, declared once: for the query, the form fields, OpenAPI and the check of names.

To add an option, add a field to `InspectQuery`; a name, a type, a default and a description are all that is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from speech_qc.errors import ProtocolError
from speech_qc.wire.option_names import single_options
from speech_qc.wire.vocabulary import AnswerFormat, RawEncoding


class InspectQuery(BaseModel):
    """The options, with their defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frames: bool = Field(True, description="Return the scores of every 20 ms frame.")
    channels: str = Field(
        "split",
        description="`split`: inspect each channel separately; `mix`: their mean. With `encoding` also the number of "
        "interleaved channels, as in `2` or `2,mix`.",
    )
    format: AnswerFormat = Field("json", description="`json`, or only the events as a label track.")
    profile: str | None = Field(None, description="Verdict profile; GET /v1/model lists all.")
    labels: str | None = Field(None, description="Comma-separated labels to return; all by default.")
    encoding: RawEncoding | None = Field(None, description="Encoding of audio without a header.")
    sample_rate: int | None = Field(
        None, description="Its sample rate, Hz; the usual one by default for encodings of telephony."
    )
    legs: str | None = Field(
        None,
        description="Names of the two channels, as in `agent,customer`: inspect them as the legs of a call, and return "
        "what happens between them as `interaction`.",
    )
    payload_types: str | None = Field(
        None,
        description="For a packet capture: what dynamic payload types mean, such as `96=opus/48000/2,97=L16/16000`. "
        "Types in SIP messages of the same capture are known.",
    )
    explain: bool = Field(False, description="Return the evidence for each event: band, level, SNR, kind of sound.")


LINE_CHARS = 300
"""Maximum length of the message about one value."""

NAMES = tuple(InspectQuery.model_fields)
"""Names of all options."""


def given_options(query: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the options of a query; their values are valid.

    Raises:
        ProtocolError: An option does not exist, is repeated, or has an invalid value.
    """
    given = single_options(query, NAMES)
    parsed(given)
    return given


def parsed(given: Mapping[str, str]) -> InspectQuery:
    """Convert the values.

    Raises:
        ProtocolError: A value is invalid; the message names the option and what it accepts.
    """
    try:
        return InspectQuery.model_validate(given)
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, found['loc']))}: {found['msg'].lower()}, got {found['input']!r}"[:LINE_CHARS]
            for found in error.errors(include_url=False)
        ]
        raise ProtocolError("; ".join(lines), errors=lines) from error


def merged(query: Mapping[str, str], fields: Mapping[str, str]) -> dict[str, str]:
    """Join the options of the query with those of a form.

    Raises:
        ProtocolError: Both have an option, with different values.
    """
    for name in query.keys() & fields.keys():
        if query[name] != fields[name]:
            raise ProtocolError(
                f"{name}: expected one value, got {query[name][:40]!r} in the query and {fields[name][:40]!r} in the "
                "form: keep one of them",
                option=name,
            )
    return {**query, **fields}


def parameters() -> list[dict[str, Any]]:
    """Return the options as query parameters, for OpenAPI."""
    found = []
    for name, schema in form_properties().items():
        description = schema.pop("description")
        found.append({"name": name, "in": "query", "required": False, "description": description, "schema": schema})
    return found


def form_properties() -> dict[str, Any]:
    """Return the options as properties of a form, for OpenAPI."""
    properties: dict[str, Any] = InspectQuery.model_json_schema()["properties"]
    return properties
