"""All that a server can be told, in one place: options of `ussfast serve`, or variables USSFAST_SERVE_*."""

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ussfast.errors import InputError
from ussfast.values import shown

SECRETS = Path("/run/secrets")  # where containers find files that are for them alone
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def data_folder() -> Path:
    """Where a user's programs keep data."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "ussfast" / "serve"


def half_of_the_cores() -> int:
    """The others are for what is around live streams; more than four threads would wait for Python's lock."""
    return min(4, max(1, (os.cpu_count() or 1) // 2))


class ServeSettings(BaseSettings):
    """Settings of a server; times in seconds, sizes in bytes.

    host, port: what it listens on. data: the folder that jobs, prompts and streams live in. token: that callers must
    show; without one only this machine may call. allowed_origins: of pages elsewhere that may call.

    model, detector, device, dtype: as for `Separator`. threads: of the CPU, each with live streams of its own. workers:
    processes for files and prompts; nice: how far their priority is below that of live streams.

    max_streams: live streams at once, if not as many as time allows. headroom: share of the time that live streams may
    take. deadline_ms: how long a piece may take after its last sample came. max_ahead_s: how far a client may be ahead
    of real time. max_unsent_s: audio that waits for a client that does not read. idle_s: without a chunk a stream ends.
    resume_s: how long a stream can be gone on with after its connection was lost. max_stream_s: of one stream.

    max_body: of a request. max_audio_s: of a file. max_clips, max_clip_s: of a prompt. max_jobs: that wait.
    max_data: of the data folder. results_s: how long results are kept. rate_per_minute: requests of one address.
    drain_s: how long SIGTERM waits for what is under way.
    """

    model_config = SettingsConfigDict(
        env_prefix="USSFAST_SERVE_", extra="forbid", validate_default=True,
        secrets_dir=SECRETS if SECRETS.is_dir() else None,
    )  # fmt: skip

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8400
    data: Path = Field(default_factory=data_folder)
    token: SecretStr | None = None
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = ()

    model: str = "default"
    detector: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    threads: Annotated[int, Field(ge=1, le=os.cpu_count() or 1)] = Field(default_factory=half_of_the_cores)
    workers: Count = 1
    nice: Annotated[int, Field(ge=0, le=19)] = 10

    max_streams: Count | None = None
    headroom: Annotated[float, Field(gt=0, le=1)] = 0.85
    deadline_ms: Positive = 60.0
    max_ahead_s: Positive = 2.0
    max_unsent_s: Positive = 5.0
    idle_s: Positive = 60.0
    resume_s: Positive = 600.0
    max_stream_s: Positive = 24 * 3600.0
    snapshot_s: Positive = 1.0

    max_body: Count = 2 << 30
    max_audio_s: Positive = 4 * 3600.0
    max_clips: Count = 32
    max_clip_s: Positive = 60.0
    max_jobs: Count = 100
    max_data: Count = 50 << 30
    results_s: Positive = 24 * 3600.0
    rate_per_minute: Count = 600
    drain_s: Positive = 30.0

    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("allowed_origins", mode="before")
    @classmethod
    def _origins(cls, value: object) -> object:
        """Of a variable: with commas between them."""
        texts = value.split(",") if isinstance(value, str) else value
        if not isinstance(texts, (list, tuple)):
            return texts
        return tuple(text.strip().rstrip("/") for text in texts if text.strip())

    @field_validator("token")
    @classmethod
    def _secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        text = value.get_secret_value()
        if len(text) < 16 or not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError("a token has 16 printable ASCII characters or more, without spaces")
        return value

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if self.token is None and not self.is_loopback:
            raise ValueError(
                f"host {self.host}: without a token the server listens on this machine only; set USSFAST_SERVE_TOKEN, "
                "or keep host at 127.0.0.1"
            )
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def settings_of(given: Mapping[str, Any]) -> ServeSettings:
    """Settings from options and variables; InputError in one line for the first that is wrong."""
    prefix = ServeSettings.model_config["env_prefix"]
    for name in os.environ:
        if name.startswith(prefix) and name.removeprefix(prefix).lower() not in ServeSettings.model_fields:
            raise InputError(f"{name}: no such setting; {', '.join(ServeSettings.model_fields)} are there")
    try:
        return ServeSettings(**given)
    except ValidationError as error:
        wrong = error.errors()[0]
        name = ".".join(str(part) for part in wrong["loc"])
        value = "" if not name or name == "token" else f", not {shown(wrong['input'])}"
        text = wrong["msg"].removeprefix("Value error, ")
        raise InputError(f"{name}: {text}{value}" if name else text) from None
