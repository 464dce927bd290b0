"""Every environment variable, validated once, with a message that says what to do."""

import pytest

from raceday_dagster.errors import SettingsError
from raceday_dagster.settings import Settings, parse_database_url


def test_nothing_exported_gives_the_defaults() -> None:
    settings = Settings.from_environment({})
    assert settings.db_pool_max == 10
    assert settings.nztab_timeout_s == 5
    assert settings.race_deadline_s == 12
    assert settings.transform_workers == 3
    assert settings.race_countries == ("NZ", "AUS")
    assert settings.race_categories == ("T", "H")
    assert settings.nztab_api_url == "https://api.tab.co.nz/affiliates/v1"


def test_an_empty_variable_counts_as_not_set() -> None:
    assert Settings.from_environment({"DB_POOL_MAX": " "}).db_pool_max == 10


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2", "postgresql+psycopg"])
def test_every_postgres_url_gets_the_installed_driver(scheme: str) -> None:
    url = Settings.from_environment({"DATABASE_URL": f"{scheme}://u:p@h/d?host=/run"}).require_database_url()
    assert url.get_secret_value() == "postgresql+psycopg2://u:p@h/d?host=%2Frun"


def test_several_hosts_are_read_as_libpq_writes_them() -> None:
    url = parse_database_url("postgresql://u:p%40ss@h1:5433,[::1]/d?target_session_attrs=read-write")
    assert (url.username, url.password, url.database) == ("u", "p@ss", "d")
    assert url.query == {"host": "h1,::1", "port": "5433,5432", "target_session_attrs": "read-write"}
    assert parse_database_url(url.render_as_string(hide_password=False)) == url


@pytest.mark.parametrize("variable", ["DATABASE_URL", "DAGSTER_PG_URL"])
@pytest.mark.parametrize("character", "@/?#[:")
def test_a_character_that_is_not_encoded_is_answered_with_how_to_encode_it(variable: str, character: str) -> None:
    with pytest.raises(SettingsError, match=f"^{variable} is wrong: percent-encode the password") as caught:
        Settings.from_environment({variable: f"postgresql://u:Tr0ub{character}dor3@db.example/d"})
    assert "Tr0ub" not in str(caught.value)
    assert "dor3" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DATABASE_URL", "mysql://u:hunter2@h/d"),
        ("DATABASE_URL", "hunter2"),
        ("DAGSTER_PG_URL", "postgres://"),
        ("DATABASE_URL", "postgresql://u@h:hunter2/d"),
        ("DATABASE_URL", "postgresql://u:hunter2/d"),
        ("DAGSTER_PG_URL", "postgresql://h1:5432,h2:hunter2/d"),
        ("DATABASE_URL", "postgresql:///d?host=a,b,c&port=1,2"),
        ("DB_POOL_MAX", "0"),
        ("DB_POOL_MAX", "hunter2"),
        ("NZTAB_API_URL", "file:///hunter2"),
        ("NZTAB_API_URL", "https://user:hunter2@api.example"),
        ("NZTAB_API_URL", "https://:hunter2@api.example"),
        ("NZTAB_API_URL", "https://api.example:99999"),
        ("NZTAB_FROM_EMAIL", "a@b\r\nX-Hunter2: 1"),
        ("NZTAB_TIMEOUT_S", "nan"),
        ("RACE_DEADLINE_S", "-1"),
        ("TRANSFORM_WORKERS", "-1"),
        ("RACE_CATEGORIES", "T,Z"),
        ("RACE_CATEGORIES", ","),
        ("RACE_COUNTRIES", "N"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_variable_and_a_way_out(variable: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({variable: value})
    message = str(caught.value)
    assert message.startswith(f"{variable} is wrong: ")
    assert "raceday sandbox" in message
    assert "\n" not in message
    assert "hunter2" not in message.lower()


def test_a_missing_database_names_the_command_that_gives_one() -> None:
    with pytest.raises(SettingsError, match=r"^DATABASE_URL is not set: .*raceday sandbox"):
        Settings.from_environment({}).require_database_url()


@pytest.mark.parametrize("missing", ["NZTAB_FROM_EMAIL", "NZTAB_PARTNER_NAME", "NZTAB_PARTNER_ID"])
def test_a_missing_identity_names_its_variable(missing: str) -> None:
    names = {"NZTAB_FROM_EMAIL": "a@b.nz", "NZTAB_PARTNER_NAME": "A B", "NZTAB_PARTNER_ID": "Private Developer"}
    names.pop(missing)
    with pytest.raises(SettingsError, match=rf"^{missing} is not set"):
        Settings.from_environment(names).require_identity()


def test_the_identity_is_sent_as_it_was_configured() -> None:
    settings = Settings.from_environment(
        {"NZTAB_FROM_EMAIL": "a@b.nz", "NZTAB_PARTNER_NAME": "A_B", "NZTAB_PARTNER_ID": "Private Developer"}
    )
    identity = settings.require_identity()
    assert (identity.from_email, identity.partner_name, identity.partner_id) == ("a@b.nz", "A_B", "Private Developer")


def test_no_secret_is_in_what_settings_print() -> None:
    settings = Settings.from_environment(
        {
            "DATABASE_URL": "postgresql://u:hunter2@h/d",
            "DAGSTER_PG_URL": "postgresql://u:hunter2@h/d",
            "NZTAB_FROM_EMAIL": "hunter2@b.nz",
            "NZTAB_PARTNER_NAME": "hunter2",
            "NZTAB_PARTNER_ID": "hunter2",
            "VISION_API_KEY": "hunter2",
        }
    )
    for shown in (repr(settings), str(settings), repr(settings.require_identity())):
        assert "hunter2" not in shown


@pytest.mark.parametrize("variable", ["BROKER_URL", "ALERT_WEBHOOK_URL", "SIGNAL_WEBHOOK_URL"])
def test_a_password_with_a_slash_is_not_repeated_as_a_port(variable: str) -> None:
    scheme = "redis" if variable == "BROKER_URL" else "https"
    with pytest.raises(
        SettingsError, match=f"^{variable} is wrong: its port must be a number, and its password"
    ) as caught:
        Settings.from_environment({variable: f"{scheme}://user:Tr0ub/dor3@h:6379/0"})
    assert "Tr0ub" not in str(caught.value)


@pytest.mark.parametrize("url", ["amqp://host", "redis://", "host:6379"])
def test_a_broker_that_is_no_redis_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^BROKER_URL is wrong: must be a URL like redis://"):
        Settings.from_environment({"BROKER_URL": url})


@pytest.mark.parametrize("seconds", ["59", "90", "3660"])
def test_far_races_are_polled_every_so_many_whole_minutes(seconds: str) -> None:
    with pytest.raises(SettingsError, match=r"^FAR_INTERVAL_S is wrong"):
        Settings.from_environment({"FAR_INTERVAL_S": seconds})
    assert Settings.from_environment({"FAR_INTERVAL_S": "900"}).far_interval_s == 900
