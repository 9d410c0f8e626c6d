"""Forms as /openapi.json tells of them: they are read piece by piece as they come, not by FastAPI."""

from typing import Any

from ussfast.audio import FORMATS

BINARY = {"type": "string", "format": "binary"}
NAMES = {"type": "array", "items": {"type": "string"}}
LATER = {
    "name": "Prefer", "in": "header", "schema": {"type": "string", "enum": ["respond-async"]},
    "description": "the answer is 202 at once, and the job goes on",
}  # fmt: skip


def _form(required: list[str], **fields: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": fields, "required": required}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


SEPARATION = {"parameters": [LATER]} | _form(
    ["file"],
    file=BINARY | {"description": "the audio"},
    prompts=NAMES | {"description": "what to separate; not for models with sources of their own"},
    stems=NAMES | {"description": "labels of the stems that are written; all if there is none"},
    residual={"type": "boolean", "default": False, "description": "also what no stem took"},
    format={"type": "string", "enum": list(FORMATS), "default": "wav"},
    bit_depth={"type": "integer", "enum": [16, 24, 32]},
)
ENROLMENT = _form(
    ["clips", "name"],
    clips={"type": "array", "items": BINARY, "description": "files with the sound and little else"},
    name={"type": "string", "description": "what the prompt is called"},
    tune={"type": "boolean", "default": False, "description": "the prompt learns from the clips, for some minutes"},
    minutes={"type": "number", "description": "of tuning, at most"},
)
