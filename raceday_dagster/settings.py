"""Every environment variable this package reads, validated once. Nothing else reads the environment."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from raceday_dagster.errors import SettingsError

SHARED_DATABASE = (
    "DAGSTER_PG_URL is DATABASE_URL: Dagster takes of the connections that DB_POOL_MAX counts on; give it a database "
    "and a role of its own"
)
SANDBOX = "`raceday sandbox -- COMMAND` runs a command with a working one"
_USER_AND_PASSWORD = re.compile(r"[^:/?#\[\]@]*(:[^:/?#\[\]@]*)?")
_HOST_AND_PORT = re.compile(r"(\[[^\]]*\]|[^:]*):?(.*)")


def parse_database_url(url: str) -> URL:
    """Any ``postgres…://`` URL, of one host or of several as libpq writes them, with the driver this package installs.

    SQLAlchemy 2.1 reads ``postgresql://`` as psycopg 3, 2.0 as psycopg2; naming the driver ends the matter.

    Raises:
        ValueError: It is not a PostgreSQL URL; the message repeats nothing of it, because any part may be of the
            password.
    """
    scheme, _, rest = url.strip().partition("://")
    if scheme.partition("+")[0] not in {"postgres", "postgresql"} or not rest:
        raise ValueError("must be a URL like postgresql://user:password@host:5432/database")
    credentials, at, location = rest.rpartition("@")
    if not _USER_AND_PASSWORD.fullmatch(credentials):
        raise ValueError(
            "percent-encode the password, and everything else of the URL that holds one of @ : / ? # [ ] without "
            "meaning it (@ is %40, : %3A, / %2F, ? %3F, # %23, [ %5B)"
        )
    servers = re.split("[/?]", location, maxsplit=1)[0]
    several = {}
    if "," in servers:
        location = location.removeprefix(servers)
        pairs = [_HOST_AND_PORT.fullmatch(server) for server in servers.split(",")]
        several = {
            "host": ",".join(pair[1].strip("[]") for pair in pairs if pair),
            "port": ",".join(pair[2] or "5432" for pair in pairs if pair),
        }
    try:
        parsed = make_url(f"postgresql+psycopg2://{credentials}{at}{location}").update_query_dict(several)
        parsed.get_dialect()().create_connect_args(parsed)  # reads what the query says of hosts and ports
    except (ArgumentError, ValueError):
        raise ValueError("each port must be a number, and the hosts as many as the ports") from None
    return parsed


def _secret_database_url(value: object) -> SecretStr:
    return SecretStr(parse_database_url(str(value)).render_as_string(hide_password=False))


def _http_url(value: str) -> str:
    parts = urlsplit(value.strip())
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an http:// or https:// URL")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("must not hold credentials, a query or a fragment")
    _ = parts.port  # raises ValueError for what is no port
    return value.strip().rstrip("/")


def _secret_url(schemes: set[str], wanted: str) -> BeforeValidator:
    """Of a URL whose password, path or query is what lets us in: what is said of a wrong one repeats nothing of it."""

    def check(value: object) -> SecretStr:
        parts = urlsplit(str(value).strip())
        if parts.scheme not in schemes or not parts.hostname:
            raise ValueError(f"must be {wanted}")
        try:
            _ = parts.port  # a password with a slash looks like one
        except ValueError:
            raise ValueError("its port must be a number, and its password percent-encoded (/ is %2F)") from None
        return SecretStr(str(value).strip())

    return BeforeValidator(check)


def _header_value(value: str) -> str:
    if not value.isprintable() or not value.isascii() or not value.strip():
        raise ValueError("must be printable ASCII text")
    return value.strip()


def _listening_address(value: str) -> str:
    host, _, port = value.strip().rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise ValueError("must be an address and a port, like 127.0.0.1:8090")
    return value.strip()


def _split(value: object) -> object:
    return tuple(part.strip().upper() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Codes = Annotated[
    tuple[Annotated[str, Field(pattern=r"^[A-Z]{2,3}$")], ...], BeforeValidator(_split), Field(min_length=1)
]
Categories = Annotated[
    tuple[Annotated[str, Field(pattern=r"^[THG]$")], ...], BeforeValidator(_split), Field(min_length=1)
]
HeaderValue = Annotated[str, AfterValidator(_header_value)]
DatabaseUrl = Annotated[SecretStr, BeforeValidator(_secret_database_url)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
BrokerUrl = Annotated[SecretStr, _secret_url({"redis", "rediss"}, "a URL like redis://:password@host:6379/0")]
WebhookUrl = Annotated[SecretStr, _secret_url({"http", "https"}, "an http:// or https:// URL")]


def _secret_header_value(value: object) -> SecretStr:
    return SecretStr(_header_value(str(value)))


LogLevel = Literal["debug", "info", "warning", "error"]
FailRunWhen = Literal["all", "any", "never"]
LogFormat = Literal["auto", "json", "text"]
DEFAULT_LOG_LEVEL: LogLevel = "info"


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def read_log_level() -> str:
    """``LOG_LEVEL`` for the logs, which are needed before and without valid settings: a wrong one counts as not set
    here, and ``Settings`` refuses it."""
    level = os.environ.get("LOG_LEVEL", "").strip().lower()
    return level if level in get_args(LogLevel) else DEFAULT_LOG_LEVEL


def is_log_for_people(*, on_terminal: bool) -> bool:
    """What ``LOG_FORMAT`` says of the form of the logs: by default text on a terminal. A wrong one counts as not set,
    as above."""
    return {"json": False, "text": True}.get(os.environ.get("LOG_FORMAT", "").strip().lower(), on_terminal)


def is_on_this_machine(url: str) -> bool:
    """Whether a URL leads to the loopback interface, as that of a simulator does."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class ApiIdentity(BaseModel):
    """How we introduce ourselves to the API. Never logged."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    from_email: str = Field(repr=False)
    partner_name: str = Field(repr=False)
    partner_id: str = Field(repr=False)


class Settings(BaseModel):
    """The environment of ``raceday_dagster``; field names are the variables in lower case."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    database_url: DatabaseUrl | None = None
    db_pool_max: int = Field(default=10, ge=1, le=100)
    nztab_api_url: HttpUrl = "https://api.tab.co.nz/affiliates/v1"
    nztab_from_email: HeaderValue | None = Field(default=None, repr=False)
    nztab_partner_name: HeaderValue | None = Field(default=None, repr=False)
    nztab_partner_id: HeaderValue | None = Field(default=None, repr=False)
    nztab_timeout_s: float = Field(default=5.0, gt=0, le=60)
    race_deadline_s: float = Field(default=12.0, gt=0, le=60)
    transform_workers: int = Field(default=3, ge=0, le=32)
    race_countries: Codes = ("NZ", "AUS")
    race_categories: Categories = ("T", "H")
    far_interval_s: int = Field(default=60, ge=60, le=3600, multiple_of=60)
    raceday_home: Path = Path(".raceday")
    archive_dir: Path | None = None
    fail_run_when: Annotated[FailRunWhen, BeforeValidator(_lower)] = "all"
    log_level: Annotated[LogLevel, BeforeValidator(_lower)] = DEFAULT_LOG_LEVEL
    log_format: Annotated[LogFormat, BeforeValidator(_lower)] = "auto"
    keep_runs_hours: int = Field(default=48, ge=1, le=8760)
    keep_ledger_days: int = Field(default=90, ge=8, le=3650)
    dagster_pg_url: DatabaseUrl | None = None
    listen_database_url: DatabaseUrl | None = None
    broker_url: BrokerUrl | None = None
    races_per_run: int = Field(default=50, ge=1, le=50)
    runs_per_tick: int = Field(default=1, ge=1, le=100)
    signal_money_points: float = Field(default=5.0, gt=0, le=100)
    signal_share_points: float = Field(default=3.0, gt=0, le=100)
    signal_share_strong_points: float = Field(default=6.0, gt=0, le=100)
    signal_price_percent: float = Field(default=5.0, gt=0, le=100)
    signal_share_look_back_s: int = Field(default=30, ge=15, le=60)
    signal_longest_gap_s: int = Field(default=60, ge=15, le=120)
    signal_last_minutes_gap_s: int = Field(default=45, ge=15, le=120)
    signal_webhook_url: WebhookUrl | None = None
    alert_webhook_url: WebhookUrl | None = None
    vision_api_url: HttpUrl | None = None
    vision_api_key: Annotated[SecretStr, BeforeValidator(_secret_header_value)] | None = None
    vision_model: HeaderValue = "gpt-4o-mini"
    image_base_url: HttpUrl | None = None
    image_listen: Annotated[str, AfterValidator(_listening_address)] = "127.0.0.1:0"
    image_title_min: int = Field(default=50, ge=1)
    image_title_max: int = Field(default=200, ge=1)
    image_keywords_min: int = Field(default=30, ge=1)
    image_keywords_max: int = Field(default=50, ge=1)
    image_keyword_max: int = Field(default=50, ge=1)
    image_category_max: int = Field(default=21, ge=1)

    @field_validator("image_title_max", "image_keywords_max")
    @classmethod
    def _at_least_the_least(cls, value: int, info: ValidationInfo) -> int:
        least = info.data.get(f"{(info.field_name or '').removesuffix('max')}min", 1)
        if value < least:
            raise ValueError(f"must not be less than {least}, the least that is allowed")
        return value

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] | None = None, *, chosen: Mapping[str, object] | None = None
    ) -> Self:
        """Reads and validates the variables; an empty one counts as not set. A field of ``chosen`` that is not ``None``
        comes before its variable.

        Raises:
            SettingsError: One line that names the variable, what it must be, and the command that gives a working
                one. The value itself is not repeated: it may be a secret.
        """
        source = os.environ if environment is None else environment
        given: dict[str, object] = {
            name: source[name.upper()].strip() for name in cls.model_fields if source.get(name.upper(), "").strip()
        }
        given.update((name, value) for name, value in (chosen or {}).items() if value is not None)
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            variable = str(first["loc"][0]).upper()
            rule = first["msg"].removeprefix("Value error, ")
            default = cls.model_fields[variable.lower()].default
            shown = "" if default is None else f" (the default is {_show(default)})"
            raise SettingsError(
                f"{variable} is wrong: {_lower_first(rule)}; correct it, or unset it{shown}: {SANDBOX}"
            ) from None

    def require_database_url(self) -> SecretStr:
        """The database to write to.

        Raises:
            SettingsError: ``DATABASE_URL`` is not set.
        """
        if self.database_url is None:
            raise SettingsError(
                "DATABASE_URL is not set: it must be a URL like postgresql://user:password@host/database; " + SANDBOX
            )
        return self.database_url

    @property
    def shares_database(self) -> bool:
        """Whether ``DAGSTER_PG_URL`` is ``DATABASE_URL``: Dagster then takes of the role's connections, too."""
        return self.database_url is not None and self.database_url == self.dagster_pg_url

    @property
    def far_interval(self) -> timedelta:
        """Time between two polls of a race that is more than 65 minutes away."""
        return timedelta(seconds=self.far_interval_s)

    @property
    def archive_folder(self) -> Path:
        """Where old history is put as Parquet files: ``ARCHIVE_DIR``, else a folder in ``RACEDAY_HOME``."""
        return self.archive_dir or self.raceday_home / "archive"

    def require_identity(self) -> ApiIdentity:
        """How to introduce ourselves to the API, which may block whoever does not.

        Raises:
            SettingsError: One of the three ``NZTAB_*`` identity variables is not set.
        """
        values = {name: getattr(self, f"nztab_{name}") for name in ApiIdentity.model_fields}
        for name, value in values.items():
            if value is None:
                raise SettingsError(
                    f"NZTAB_{name.upper()} is not set: the API wants to know who asks (see README, The real API); "
                    "`raceday sandbox -- COMMAND` runs a command against a simulated one"
                )
        return ApiIdentity(**values)


def _show(default: object) -> str:
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
