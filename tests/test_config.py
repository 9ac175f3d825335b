# ruff: noqa: E501 - a sentence that an admin reads stands on one line
from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import traceback
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from llmgate import config as conf
from llmgate.config import Config, InvalidConfig, Secret, UpstreamTable, parse, resolve
from llmgate.errors import ConfigError, UsageError
from llmgate.presets import PRESETS
from llmgate.pricing import FREE
from tests import tls

EXAMPLE = Path(__file__).parent.parent / "llmgate.toml.example"
EXAMPLE_ENV = {"OPENAI_API_KEY": "sk-test", "AZURE_OPENAI_API_KEY": "az-test"}

PRICE_WORDS = (
    '"free", or a table with at least one of: input, cached_input, cache_write, cache_write_1h, output, reasoning, '
    "audio_input, audio_output, image_input, per_request, per_image, per_second, per_search, per_1k_characters"
)


def problems(text: str, path: Path | None = None) -> tuple[str, ...]:
    with pytest.raises(InvalidConfig) as caught:
        parse(text, path)
    return caught.value.problems


def unresolved(text: str, env: dict[str, str] | None = None, path: Path | None = None) -> tuple[str, ...]:
    with pytest.raises(InvalidConfig) as caught:
        resolve(parse(text, path), env or {})
    return caught.value.problems


def upstream(text: str, env: dict[str, str] | None = None, name: str = "x") -> conf.Upstream:
    return resolve(parse(f"[upstreams.{name}]\n{text}"), env or {}).upstreams[name]


# ── the grammar ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_empty_file_is_a_config() -> None:
    assert parse("", env={}) == Config(upstreams={"sandbox": UpstreamTable()})


def test_what_pages_go_by() -> None:
    config = conf.parse('server.public_url = "https://llm.example.org:8443/"\nsign_in.session = "7d"')
    assert config.server.public_url == "https://llm.example.org:8443"
    assert config.sign_in.session_ms == 7 * 86_400_000
    assert conf.parse("").sign_in.session_ms == 43_200_000


def test_everything_is_read() -> None:
    read = parse(
        """
        database = "books.db"
        timezone = "Europe/Berlin"
        [server]
        bind = "[::1]:0"
        max_body = 1000
        trusted_proxies = ["10.1.2.3/8", "::1"]
        client_ip_header = "X-Real-IP"
        shutdown_grace = 0
        body_timeout = 2.5
        [defaults]
        billing = "prepaid"
        flat_rate = 20
        [upstreams.gpu1]
        base_url = "http://10.0.0.5:8080/v1/"
        auth = "none"
        price = "free"
        timeout = { idle = 0.5 }
        [models."org/gpt-4.1:free"]
        routes = [{ upstream = "gpu1", model = "oss", weight = 2 }, { upstream = "gpu1" }]
        price = { input = 0.25, per_1k_characters = 15 }
        max_output = 1
        """
    )
    assert read.server == conf.Server(
        bind="[::1]:0",
        max_body=1000,
        trusted_proxies=("10.0.0.0/8", "::1/128"),
        client_ip_header="X-Real-IP",
        shutdown_grace=0,
        body_timeout=2.5,
    )
    assert (read.database, read.timezone) == ("books.db", "Europe/Berlin")
    assert read.defaults == conf.Defaults(billing="prepaid", flat_rate=Decimal(20))
    assert read.upstreams["gpu1"].timeout == conf.Timeout(connect=5, first_byte=600, idle=0.5, total=3600)
    model = read.models["org/gpt-4.1:free"]
    assert model.routes == (conf.Route(upstream="gpu1", model="oss", weight=2), conf.Route(upstream="gpu1"))
    assert model.price == {"input": Decimal("0.25"), "per_1k_characters": Decimal(15)}
    assert model.max_output == 1


@pytest.mark.parametrize(
    "bound",
    [
        'self_service.limits = ["$5/month"]',
        "self_service.credits = 1",
        'self_service.plan = "p"\nplans.p.limits = ["5 requests/day"]',
        'self_service.plan = "p"\nplans.p.billing = "prepaid"',
        'defaults.limits = ["5 requests/day"]',
        'defaults.billing = "prepaid"',
    ],
)
def test_keys_for_everybody_are_bounded_by_something(bound: str) -> None:
    service = parse(f'{bound}\nself_service.mode = "open"').self_service
    assert (service.mode, service.per_address, service.per_name) == ("open", "5/day", "3/day")


@pytest.mark.parametrize(
    ("written", "size"),
    [("5", 5), ('"5"', 5), ('"7B"', 7), ('"1 KB"', 1000), ('"32MiB"', 32 * 2**20), ('"1GiB"', 2**30), ('"2MB"', 2e6)],
)
def test_sizes(written: str, size: int) -> None:
    assert parse(f"server.max_body = {written}").server.max_body == size


def test_prices_are_exact() -> None:
    price = parse("upstreams.openai.price = { input = 0.000000001, output = 1e-9 }").upstreams["openai"].price
    assert price == {"input": Decimal("0.000000001"), "output": Decimal("1e-9")}
    assert isinstance(price, dict)
    assert all(type(value) is Decimal for value in price.values())


SIZE = 'a size such as "32MiB" or a number of bytes'
SECONDS = "a number of seconds above 0, at most a week"
BIND = '"host:port", such as "127.0.0.1:8000" or "[::1]:8000"'
URL = "an http:// or https:// URL without a query"
USD = "USD: 0 or more, at most 9 decimals"
UPSTREAM_NAME = "the name of an upstream, [A-Za-z0-9][A-Za-z0-9._@+-]{0,63}"
MODEL_NAME = "the name of a model, [A-Za-z0-9._:@/-]+ without .."
AUTH = "bearer, header:NAME, query:NAME or none"
WAY_IN = "a name, [a-z0-9][a-z0-9-]{0,31}, such as google"
ISSUER = "an https:// URL (http:// only on this machine)"
PRESET_NAMES = ", ".join(PRESETS)

REFUSED = [
    # unknown keys
    ('timezon = "UTC"', "timezon is no known key: did you mean timezone?"),
    ("server.bnd = 1", "server.bnd is no known key: did you mean bind?"),
    (
        "log.xyz = 1",
        "log.xyz is no known key: known are level, format, file",
    ),
    ("upstreams.openai.timeout.conect = 1", "upstreams.openai.timeout.conect is no known key: did you mean connect?"),
    ('models."gpt-4.1".prize = 1', 'models."gpt-4.1".prize is no known key: did you mean price?'),
    ('path = "x"', "path is no known key: known are database, timezone, server, defaults, log, accounting, upstreams, models, routes, plans, invoice, self_service, sign_in, oidc"),
    # wrong types
    ("server = 1", "server must be a table, not 1"),
    ("upstreams = []", "upstreams must be a table, not an empty list"),
    ("upstreams.openai = true", "upstreams.openai must be a table, not true"),
    ('server.trusted_proxies = "::1"', 'server.trusted_proxies must be a list, not "::1"'),
    ("database = 1", 'database must be the path of an SQLite file, or "sqlite:///path", not 1'),
    ("defaults.max_output = true", "defaults.max_output must be a whole number of at least 1, not true"),
    ("defaults.max_output = 1.0", "defaults.max_output must be a whole number of at least 1, not 1.0"),
    ('upstreams.openai.timeout.connect = "5"', f'upstreams.openai.timeout.connect must be {SECONDS}, not "5"'),
    ("upstreams.openai.timeout = 5", "upstreams.openai.timeout must be a table, not 5"),
    ("upstreams.openai.ask_usage = 1", "upstreams.openai.ask_usage must be true or false, not 1"),
    ("upstreams.openai.headers.X = 1", "upstreams.openai.headers.X must be a text that an HTTP header can carry, not 1"),
    ("upstreams.openai.query.v = 1", "upstreams.openai.query.v must be a text, not 1"),
    ("upstreams.openai.api_key = 5", "upstreams.openai.api_key must be a text, best a reference: ${NAME}, not 5"),
    ("log.file = 2026-11-20", "log.file must be the path of a file, not 2026-11-20"),
    ("models.m.routes = [5]", "models.m.routes[0] must be a table, not 5"),
    # bad values
    ("defaults.max_output = 0", "defaults.max_output must be a whole number of at least 1, not 0"),
    ('defaults.billing = "free"', 'defaults.billing must be "metered" or "prepaid", not "free"'),
    ('log.level = "warn"', 'log.level must be "debug" or "info" or "warning" or "error", not "warn" (did you mean warning?)'),
    ('log.format = "${F}"', 'log.format must be "text" or "json", not "${F}"'),
    ('accounting.durability = "x"', 'accounting.durability must be "normal" or "full", not "x"'),
    ('accounting.interrupted = "no"', 'accounting.interrupted must be "input" or "none", not "no" (did you mean none?)'),
    ('timezone = "Europe/Berln"', 'timezone must be an IANA time zone, such as "UTC" or "Europe/Berlin", not "Europe/Berln" (did you mean Europe/Berlin?)'),
    ('timezone = "qqq"', 'timezone must be an IANA time zone, such as "UTC" or "Europe/Berlin", not "qqq"'),
    ('server.max_body = "32 XB"', f'server.max_body must be {SIZE}, not "32 XB"'),
    ("server.max_body = 0", f"server.max_body must be {SIZE}, not 0"),
    ("server.max_body = -1", f"server.max_body must be {SIZE}, not -1"),
    ('server.public_url = "https://x/y"', "server.public_url must be an address such as \"https://llm.example.org\", not \"https://x/y\" (pages lie at the root of a host: leave the path out)"),
    ('server.public_url = "x.org"', "server.public_url must be an address such as \"https://llm.example.org\", not \"x.org\""),
    ('sign_in.session = "1mo"', "sign_in.session must be a time such as \"30m\", \"12h\" or \"7d\": a minute to a year, not \"1mo\""),
    ('sign_in.session = "forever"', "sign_in.session must be a time such as \"30m\", \"12h\" or \"7d\": a minute to a year, not \"forever\""),
    ('sign_in.session = "5s"', "sign_in.session must be a time such as \"30m\", \"12h\" or \"7d\": a minute to a year, not \"5s\""),
    ("server.body_timeout = 0", f"server.body_timeout must be {SECONDS}, not 0"),
    ("server.body_timeout = inf", f"server.body_timeout must be {SECONDS}, not Infinity"),
    ("server.shutdown_grace = -1", "server.shutdown_grace must be a number of seconds, at most a week, not -1"),
    ('server.bind = "8000"', f'server.bind must be {BIND}, not "8000"'),
    ('server.bind = "localhost"', f'server.bind must be {BIND}, not "localhost"'),
    ('server.bind = "h:70000"', f'server.bind must be {BIND}, not "h:70000" (a port is 0 to 65535)'),
    ('server.bind = "::1:80"', f'server.bind must be {BIND}, not "::1:80" (an IPv6 address stands in brackets)'),
    ('server.client_ip_header = "X Y"', 'server.client_ip_header must be the name of an HTTP header, not "X Y"'),
    ('server.certfile = ""', 'server.certfile must be the path of a file, not ""'),
    ('database = "sqlite://x"', 'database must be the path of an SQLite file, or "sqlite:///path"'),
    ('database = "postgresql://u:pw@h/db"', 'database must be the path of an SQLite file, or "sqlite:///path" (only SQLite is supported)'),
    ('database = ":memory:"', 'database must be the path of an SQLite file, or "sqlite:///path" (a database in memory would be gone with the command)'),
    ('upstreams.openai.base_url = "ftp://x"', f"upstreams.openai.base_url must be {URL}"),
    ('upstreams.openai.base_url = "https://"', f"upstreams.openai.base_url must be {URL}"),
    ('upstreams.openai.base_url = "api.openai.com/v1"', f"upstreams.openai.base_url must be {URL}"),
    ('upstreams.openai.base_url = "https://u:pw@h/v1"', f"upstreams.openai.base_url must be {URL} (a user name or a secret does not belong in it)"),
    ('upstreams.openai.base_url = "https://h/v1?a=b"', f"upstreams.openai.base_url must be {URL} (what follows the ? goes into query = {{ … }})"),
    ('upstreams.openai.base_url = "https://h/a b"', f"upstreams.openai.base_url must be {URL} (there is a blank or a special character in it)"),
    ('upstreams.openai.auth = "basic"', f'upstreams.openai.auth must be {AUTH}, not "basic"'),
    ('upstreams.openai.auth = "header:"', f'upstreams.openai.auth must be {AUTH}, not "header:"'),
    ('upstreams.openai.format = "opnai"', 'upstreams.openai.format must be "openai" or "anthropic" or "gemini", not "opnai" (did you mean openai?)'),
    ('upstreams.openai.on_disconnect = "stop"', 'upstreams.openai.on_disconnect must be "cancel" or "drain", not "stop"'),
    ('upstreams.openai.headers.X = "a\\nb"', "upstreams.openai.headers.X must be a text that an HTTP header can carry"),
    ('upstreams.x.preset = "opnai"', f'upstreams.x.preset must be one of: {PRESET_NAMES}, not "opnai" (did you mean openai?)'),
    ('upstreams.x.preset = "qqq"', f'upstreams.x.preset must be one of: {PRESET_NAMES}, not "qqq"'),
    ('upstreams.openai.api_key = "${A:-b}"', "upstreams.openai.api_key has a reference that is not written ${NAME}"),
    # keys that people ask for themselves
    ('self_service.mode = "on"', 'self_service.mode must be "off" or "approval" or "open", not "on" (did you mean open?)'),
    *(
        (f'self_service.per_name = "{text}"', f'self_service.per_name must be a number per minute, hour, day, week or month, such as 5/day, not "{text}"')
        for text in ("0/day", "5", "5/year", "-1/day", "5 per day", "5000000000/day")
    ),
    ("self_service.per_address = 5", "self_service.per_address must be a number per minute, hour, day, week or month, such as 5/day, not 5"),
    ('self_service.expires = "tomorrow"', 'self_service.expires must be a duration such as 90d, not "tomorrow"'),
    ('self_service.team = "a b"', 'self_service.team must be the name of a team, [A-Za-z0-9][A-Za-z0-9._@+-]{0,63}, not "a b"'),
    ('self_service.plan = "starter"', 'self_service.plan must be one of [plans], not "starter" (add [plans.starter])'),
    ('self_service.plan = "startr"\n[plans.starter]', 'self_service.plan must be one of [plans], not "startr" (did you mean starter?)'),
    ('self_service.mode = "open"', 'self_service.mode must not be "open" as long as nothing bounds what such a key may spend: write limits, credits, or a plan with limits'),
    ('plans.p.price = 1\nself_service = { mode = "open", plan = "p" }', 'self_service.mode must not be "open" as long as nothing bounds what such a key may spend: write limits, credits, or a plan with limits'),
    ('self_service = { mode = "open", credits = 0 }', 'self_service.mode must not be "open" as long as nothing bounds what such a key may spend: write limits, credits, or a plan with limits'),
    # prices
    ("defaults.flat_rate = -1", f"defaults.flat_rate must be {USD}, not -1 (-1 is negative)"),
    ('defaults.flat_rate = "20"', f'defaults.flat_rate must be {USD}, not "20"'),
    ("upstreams.openai.price = {}", f"upstreams.openai.price must be {PRICE_WORDS}, not an empty table"),
    ('upstreams.openai.price = "fre"', f'upstreams.openai.price must be {PRICE_WORDS}, not "fre"'),
    ("upstreams.openai.cost = 1", f"upstreams.openai.cost must be {PRICE_WORDS}, not 1"),
    ("models.m.price.output = -0.5", f"models.m.price.output must be {USD}, not -0.5 (-0.5 is negative)"),
    ("models.m.price.output = true", f"models.m.price.output must be {USD}, not true"),
    ("models.m.price.output = nan", f"models.m.price.output must be {USD}, not NaN ('NaN' is not a finite number)"),
    ("models.m.price.output = 0.0000000001", f"models.m.price.output must be {USD}, not 1E-10 (1E-10 is finer than one nano-USD (9 decimals))"),
    ("models.m.price.output = 1e30", f"models.m.price.output must be {USD}, not 1E+30 (1E+30 is too large)"),
    # names
    ('upstreams."a b".price = "free"', f'upstreams."a b": "a b" is not {UPSTREAM_NAME}'),
    ('upstreams.-x.price = "free"', f'upstreams.-x: "-x" is not {UPSTREAM_NAME}'),
    ('models."a..b".max_output = 1', f'models."a..b": "a..b" is not {MODEL_NAME}'),
    ('models."a b".max_output = 1', f'models."a b": "a b" is not {MODEL_NAME}'),
    ('upstreams.openai.headers."X Y" = "1"', 'upstreams.openai.headers."X Y": "X Y" is not the name of an HTTP header'),
    ('upstreams.openai.headers.Host = "h"', 'upstreams.openai.headers.Host: "Host" is not the name of an HTTP header (llmgate sets that one itself)'),
    # what one field alone can't tell
    ('server.certfile = "c.pem"', "server.keyfile is missing: certfile and keyfile go together"),
    ('server.keyfile = "k.pem"', "server.certfile is missing: certfile and keyfile go together"),
    (
        '[upstreams.openai]\napi_key = ["sk", 5]',
        "upstreams.openai.api_key[1] must be a text, best a reference: ${NAME}, not 5",
    ),
    ("[upstreams.openai]\napi_key = []", "upstreams.openai.api_key must have a secret in its list"),
    ('[models.m]\nfallbacks = ["m"]', "models.m.fallbacks[0] must be another model than m"),
    ('[models.m]\nfallbacks = "n"', 'models.m.fallbacks must be a list, not "n"'),
    ("models.m.routes = [{}]", "models.m.routes[0].upstream is missing"),
    ("[upstreams.azure]", 'upstreams.azure.base_url is missing: preset "azure" has none, write where yours is'),
    ("[upstreams.opnai]", "upstreams.opnai.base_url is missing: opnai is no known upstream; did you mean openai?"),
    ("[upstreams.gpu1]", f"upstreams.gpu1.base_url is missing: gpu1 is no known upstream; known are {PRESET_NAMES}"),
    ('upstreams.sandbox.base_url = "http://h"', "upstreams.sandbox.base_url must be left out: the sandbox is inside llmgate"),
    (
        'upstreams.openai = { api_key = "a", api_key_file = "b" }',
        "upstreams.openai.api_key_file must be left out where api_key is written",
    ),
    (
        'upstreams.openai = { api_key = "a", auth = "none" }',
        'upstreams.openai.auth must not be "none" where a secret is written',
    ),
    (
        '[upstreams.openai]\n[models.m]\nroutes = [{ upstream = "openai" }, { upstream = "opnai" }]',
        'models.m.routes[1].upstream must be a configured upstream, not "opnai" (did you mean openai?)',
    ),
    (
        '[upstreams.openai]\n[models."gpt-4.1"]\nroutes = [{ upstream = "sandbox" }]',
        'models."gpt-4.1".routes[0].upstream must be a configured upstream, not "sandbox" (add [upstreams.sandbox])',
    ),
    *(
        (f'[upstreams.openai]\n[routes."/v1/x"]\nupstream = "openai"\nprice = 1\n{text}', f'routes."/v1/x".{problem}')
        for text, problem in (
            ('meter = "f(n)"', 'meter must be a JMESPath expression, not "f(n)" (there is no function f())'),
            ('meter = "a b"', 'meter must be a JMESPath expression, not "a b" (from its character 3 on it is none)'),
            ('meter = "n"', "meter must be left out where the unit is a request: say what is counted with unit"),
            ('unit = "token"', "meter is missing: where the answer says how many units there were"),
            ('unit = "token"\nmeter = "n"', "fallback is missing: how many units are charged where the answer doesn't say it"),
            ('unit = "token"\nmeter = "n"\nfallback = 2\nmost = 1', "fallback must not be more than most"),
            ('unit = "token"\nmeter = "n"\nfallback = 2\nmost = 1000001',
             "most times the price must not be more than a request may ever cost, a million USD"),
            ('unit = "tokens"', 'unit must be one of: request, token, character, image, second, not "tokens" '
             "(did you mean token?)"),
            ("unmetered = true", "price must be left out where unmetered is true"),
            ('path = "/y/*"', "path must end with * where the path that clients ask does, and only there"),
            ('path = "y"', 'path must be a path such as "/v2/translate", or with * at its end, not "y"'),
            ('methods = ["HEAD"]', 'methods[0] must be one of: GET, POST, PUT, PATCH, DELETE, not "HEAD"'),
            ("methods = []", "methods must have a method in its list"),
        )
    ),
    *(
        (f'[routes."{path}"]\nupstream = "openai"\nprice = 1', f'routes."{path}": "{path}" is not a path such as '
         f'"/v1/translate", with * at its end for all that begin so{why}')
        for path, why in (
            ("v1/x", ""), ("/v1/../x", ""), ("/v1//x", ""), ("/v1/x/", ""), ("/v1/*/x", ""), ("/v1/x y", ""), ("*", ""),
            ("/v1/chat/completions", " (llmgate itself answers there)"),
            ("/v1/Chat/Completions", " (llmgate itself answers there)"),
            ("/v1/models/*", " (llmgate itself answers there)"),
            ("/health", " (llmgate itself answers there)"),
        )
    ),
    ('[upstreams.openai]\n[routes."/v1/x"]\nupstream = "opnai"\nprice = 1',
     'routes."/v1/x".upstream must be a configured upstream, not "opnai" (did you mean openai?)'),
    ('[upstreams.openai]\n[routes."/v1/x"]\nupstream = "openai"',
     'routes."/v1/x".price is missing: what each request is sold for, 0 for nothing, or unmetered = true'),
    ('server.passthrough = ["/x"]\n[upstreams.openai]',
     'server.passthrough[0] must be a path such as "/v1/files*", * meaning all that begin so, not "/x"'),
    ('server.passthrough = ["/v1/messages/batches*"]\n[upstreams.openai]',
     "server.passthrough[0] needs an upstream that speaks the format of /v1/messages/batches*, and there is none"),
    ('server.passthrough = ["/v1/x"]\n[upstreams.openai]\n[routes."/v1/x"]\nupstream = "openai"\nprice = 1',
     "server.passthrough[0] must not be /v1/x, which has a route"),
    # signing in
    ("[oidc.google]", "oidc.google.client_id is missing"),
    ("[oidc.google]", "oidc.google.client_secret is missing"),
    *(
        (f'[oidc.{name}]\nclient_id = "c"\nclient_secret = "s"\n{text}', problem)
        for name, text, problem in (
            ("link", "", f'oidc.link: "link" is not {WAY_IN} (llmgate itself uses that word)'),
            ("Google", "", f'oidc.Google: "Google" is not {WAY_IN}'),
            ("sso", "", "oidc.sso.issuer is missing: sso is no known issuer; known are google, github, gitlab"),
            ("gogle", "", "oidc.gogle.issuer is missing: gogle is no known issuer; did you mean google?"),
            ("sso", 'issuer = "http://sso.example.org"', f'oidc.sso.issuer must be {ISSUER}, not "http://sso.example.org" '
             "(without TLS anybody on the way could say who somebody is)"),
            ("sso", 'issuer = "sso"', f'oidc.sso.issuer must be {ISSUER}, not "sso"'),
            ("google", 'allowed_domains = ["@x.org"]', 'oidc.google.allowed_domains[0] must be a domain such as '
             '"example.org", or "*" for all, not "@x.org"'),
            ("google", 'new_users = "yes"', 'oidc.google.new_users must be "refuse" or "approval" or "create", not "yes"'),
            ("github", 'new_users = "create"', "oidc.github.allowed_domains is missing: everybody can have an account "
             'there, so say whose addresses make a user, or ["*"] for all the world'),
            ("google", 'plan = "pro"', 'oidc.google.plan must be one of [plans], not "pro" (add [plans.pro])'),
            ("github", 'new_users = "create"\nallowed_domains = ["*"]', 'oidc.github.allowed_domains must not be ["*"] as '
             "long as nothing bounds what such a user may spend: write a plan with limits, or [defaults] limits"),
            ("github", 'claim = "login"\n[self_service]\nmode = "open"\ncredits = 1', 'oidc.github.claim must be "email" '
             'where self_service.mode is "open": there names are taken by whoever comes first, who would have a key of '
             "the one whose name it is"),
            ("google", 'preset = "googel"', 'oidc.google.preset must be one of: google, github, gitlab, not "googel" '
             "(did you mean google?)"),
            ("google", 'scopes = ["a b"]', 'oidc.google.scopes[0] must be a scope, such as openid, not "a b"'),
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "problem"), REFUSED)
def test_what_is_refused(text: str, problem: str) -> None:
    assert problem in problems(text)


def test_an_unknown_price_names_the_nearest() -> None:
    (problem,) = problems("upstreams.openai.price = { inputt = 1 }")
    assert problem.startswith('upstreams.openai.price.inputt: "inputt" is not a price')
    assert problem.endswith("(did you mean input?)")


def test_all_problems_are_told_and_the_first_is_the_message() -> None:
    with pytest.raises(ConfigError) as caught:
        parse('x = 1\nserver.bind = ""\nlog.level = 1', Path("/etc/llmgate.toml"))
    assert isinstance(caught.value, InvalidConfig)
    assert len(caught.value.problems) == 3
    assert caught.value.message.startswith("/etc/llmgate.toml: x is no known key: ")
    assert caught.value.message.endswith(" (2 more: see `llmgate config check`)")
    assert caught.value.exit_code == 1


def test_a_syntax_error_names_the_line() -> None:
    with pytest.raises(ConfigError, match=r"^/etc/llmgate\.toml: this is no TOML: .*at line 2, column 6"):
        parse("[log]\nlevel\n", Path("/etc/llmgate.toml"))


def test_ways_to_sign_in() -> None:
    text = """
        [oidc.google]
        client_id = "c"
        client_secret = "${GOOGLE_SECRET}"
        allowed_domains = ["Example.ORG"]
        [oidc.sso]
        issuer = "http://localhost:9400/"
        client_id = "d"
        client_secret = "plain"
    """
    config = parse(text)
    assert config.oidc["google"].allowed_domains == ("example.org",)
    assert config.oidc["google"].new_users == "refuse"
    assert config.oidc["sso"].issuer == "http://localhost:9400"
    assert "plain" not in conf.to_toml(config) + repr(config)
    secrets = {
        name: table.client_secret.reveal()
        for name, table in resolve(config, {"GOOGLE_SECRET": "x${Y}"}).config.oidc.items()
    }
    assert secrets == {"google": "x${Y}", "sso": "plain"}
    (problem,) = unresolved(text)
    assert (
        problem == "oidc.google.client_secret needs the environment variable GOOGLE_SECRET, which is not set: export it"
    )


def test_authorities_of_an_issuer(tmp_path: Path) -> None:
    text = '[oidc.sso]\nissuer = "https://sso"\nclient_id = "c"\nclient_secret = "s"\nca_file = "corp.pem"'
    (problem,) = unresolved(text, path=tmp_path / "llmgate.toml")
    assert problem.startswith("oidc.sso.ca_file: ")
    assert problem.endswith("corp.pem can't be read (there is no such file or folder)")


def test_secrets_are_not_in_errors() -> None:
    text = 'upstreams.openai = { base_url = "h//pw1", headers = { X = "pw2\\n" }, api_key = ["pw3"], query = ["pw4"] }'
    assert not re.search("pw[1-4]", " ".join(problems(text)))


def test_long_values_are_cut_in_errors() -> None:
    (problem,) = problems(f'server.bind = "{"x" * 500}"')
    assert len(problem) < 200


# ── references and secrets ────────────────────────────────────────────────────────────────────────────────────────────


def test_references_stay_until_they_are_resolved() -> None:
    text = """
        timezone = "${ZONE}"
        [server]
        bind = "${HOST}:${PORT}"
        trusted_proxies = ["${PROXY}"]
        [upstreams.openai]
        api_key = "${KEY}"
        base_url = "${BASE}/v1"
        headers = { X-Title = "a ${TITLE}" }
        [models.m]
        routes = [{ upstream = "openai", model = "${MODEL}" }]
        """
    env = {"ZONE": "UTC", "HOST": "h", "PORT": "1", "PROXY": "10.0.0.1/8", "KEY": " sk-1\n", "BASE": "https://b/"}
    env |= {"TITLE": "${KEY}", "MODEL": "deep"}
    config = parse(text)
    assert config.server.bind == "${HOST}:${PORT}"
    assert config.upstreams["openai"].api_key == (Secret("${KEY}"),)
    ready, upstreams = resolve(config, env)
    assert (ready.timezone, ready.server.bind, ready.server.trusted_proxies) == ("UTC", "h:1", ("10.0.0.0/8",))
    assert ready.models["m"].routes[0].model == "deep"
    assert ready.upstreams["openai"].api_key == (Secret("${KEY}"),)
    assert upstreams["openai"].secret == Secret("sk-1")
    assert upstreams["openai"].base_url == "https://b/v1"
    assert upstreams["openai"].headers == {"X-Title": "a ${KEY}"}


def test_all_that_is_missing_is_named_with_its_key() -> None:
    text = """
        timezone = "${ZONE}"
        [upstreams.openai]
        api_key = "${KEY}"
        headers = { X-Title = "${TITLE}", X-Other = "${EMPTY}" }
        [upstreams.groq]
        [upstreams.gpu1]
        base_url = "${BASE}"
        auth = "bearer"
        """
    assert unresolved(text, {"EMPTY": ""}, Path("/etc/llmgate.toml")) == (
        "timezone needs the environment variable ZONE, which is not set: export it, or write it into .env beside the config",
        "upstreams.openai.headers.X-Title needs the environment variable TITLE, which is not set: export it, or write it into .env beside the config",
        "upstreams.openai.headers.X-Other needs the environment variable EMPTY, which is empty: give it a value where it is set",
        "upstreams.gpu1.base_url needs the environment variable BASE, which is not set: export it, or write it into .env beside the config",
        "upstreams.openai.api_key needs the environment variable KEY, which is not set: export it, or write it into .env beside the config",
        "upstreams.groq.api_key is missing: set GROQ_API_KEY in the environment or in .env, "
        "or write api_key or api_key_file",
        'upstreams.gpu1.api_key is missing: write api_key or api_key_file, or auth = "none" if it needs no secret',
    )


@pytest.mark.parametrize(
    ("text", "env", "problem"),
    [
        ('server.bind = "${B}"', {"B": "x"}, f'server.bind must be {BIND}, not "x"'),
        ('upstreams.x = { base_url = "${B}", auth = "none" }', {"B": "ftp://x"}, f"upstreams.x.base_url must be {URL}"),
        (
            '[upstreams.openai]\napi_key = "${K}"',
            {"K": "a\nb"},
            "upstreams.openai.api_key is empty or has a character that no HTTP header can carry",
        ),
        (
            "[upstreams.openai]",
            {"OPENAI_API_KEY": "  "},
            "upstreams.openai.api_key is empty or has a character that no HTTP header can carry",
        ),
    ],
)
def test_what_a_variable_holds_is_checked(text: str, env: dict[str, str], problem: str) -> None:
    assert unresolved(text, {"OPENAI_API_KEY": "k", **env}) == (problem,)


@pytest.mark.parametrize("name", ["openai", "second"])
def test_a_preset_takes_the_variable_of_its_sdk(name: str) -> None:
    ready = upstream('preset = "openai"', {"OPENAI_API_KEY": "sk-env"}, name)
    assert ready.secret == Secret("sk-env")


def test_a_base_url_variable_does_not_move_a_configured_upstream() -> None:
    env = {"OPENAI_API_KEY": "sk-env", "OPENAI_BASE_URL": "https://elsewhere/v1"}
    assert upstream("", env, "openai").base_url == "https://api.openai.com/v1"


def test_a_secret_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-file\n")
    path = tmp_path / "llmgate.toml"
    text = '[upstreams.openai]\napi_key_file = "key"'
    assert resolve(parse(text, path), {}).upstreams["openai"].secret == Secret("sk-file")
    (tmp_path / "key").unlink()
    assert unresolved(text, {}, path) == (
        f"upstreams.openai.api_key_file: {tmp_path / 'key'} can't be read (there is no such file or folder)",
    )
    (tmp_path / "key").write_text(" \n")
    assert unresolved(text, {}, path) == (
        "upstreams.openai.api_key_file is empty or has a character that no HTTP header can carry",
    )


SEVERAL = '[upstreams.openai]\napi_key = ["${A}", "${B}"]'


def test_several_secrets() -> None:
    ready = resolve(parse(SEVERAL), {"A": "sk-a", "B": " sk-b\n"}).upstreams["openai"]
    assert (ready.secrets, ready.secret) == ((Secret("sk-a"), Secret("sk-b")), Secret("sk-a"))
    assert 'api_key = [\n    "${A}",\n    "${B}",\n]' in conf.to_toml(parse(SEVERAL))
    assert unresolved(SEVERAL, {"A": "sk-a"}) == (
        "upstreams.openai.api_key[1] needs the environment variable B, which is not set: export it",
    )
    assert unresolved(SEVERAL, {"A": "sk-a", "B": "\t"}) == (
        "upstreams.openai.api_key[1] is empty or has a character that no HTTP header can carry",
    )


def test_a_list_of_secrets_that_are_one_is_one() -> None:
    assert parse('[upstreams.openai]\napi_key = ["sk"]') == parse('[upstreams.openai]\napi_key = "sk"')


def test_paths_are_relative_to_the_config() -> None:
    text = 'log.file = "a.log"\nserver = { certfile = "/tls/c", keyfile = "~/k" }'
    ready = resolve(parse(text, Path("/etc/gate/llmgate.toml")), {"HOME": "/home/u"}).config
    assert (ready.log.file, ready.server.certfile, ready.server.keyfile) == ("/etc/gate/a.log", "/tls/c", "/home/u/k")


def test_secrets_are_not_in_reprs() -> None:
    text = '[upstreams.x]\nbase_url = "http://h"\napi_key = "pw1"\nheaders = { X = "pw2" }\nquery = { key = "pw3" }'
    config = parse(text)
    seen = repr(config) + repr(resolve(config, {})) + repr(conf.known_upstreams(config)) + str(Secret("pw4"))
    assert "pw" not in seen
    with pytest.raises(InvalidConfig) as caught:
        resolve(parse(f'{text}\nprice = "free"\n[upstreams.y]\nbase_url = "http://h"\nauth = "bearer"'), {})
    assert "pw" not in "".join(traceback.format_exception(caught.value))


def test_secrets_compare() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1
    assert Secret("a").reveal() == "a"


# ── upstreams, complete ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("base", ["https://a.test", "https://a.test/", "https://a.test/v1", "https://a.test/v1/"])
def test_exactly_one_version_stands_in_an_address_of_anthropic(base: str) -> None:
    ready = upstream(f'base_url = "{base}"', {"ANTHROPIC_API_KEY": "sk"}, "anthropic")
    assert ready.base_url == "https://a.test/v1"


def test_an_upstream_takes_what_its_preset_says() -> None:
    ready = upstream("", {"OPENROUTER_API_KEY": "sk"}, "openrouter")
    preset = PRESETS["openrouter"]
    assert ready.base_url == preset.base_url
    for field in ("formats", "ask_usage", "on_disconnect", "catalogue", "cost_reported", "cost"):
        assert getattr(ready, field) == getattr(preset, field)
    for field in ("output_fields", "output_write", "deployments"):
        assert getattr(ready, field) == getattr(preset, field)
    assert (ready.name, ready.preset, ready.price) == ("openrouter", "openrouter", None)


def test_what_is_written_goes_before_the_preset() -> None:
    ready = upstream(
        'api_key = "k"\nask_usage = true\non_disconnect = "cancel"\nbase_url = "http://h//v1/"\n'
        'price = "free"\ncost = { input = 1 }',
        {"OPENROUTER_API_KEY": "sk"},
        "openrouter",
    )
    assert (ready.secret, ready.ask_usage, ready.on_disconnect, ready.base_url) == (
        Secret("k"),
        True,
        "cancel",
        "http://h/v1",
    )
    assert (ready.price, ready.cost) == ("free", {"input": Decimal(1)})


@pytest.mark.parametrize(
    ("text", "name", "kind", "auth_name"),
    [
        ('api_key = "k"', "openai", "bearer", "authorization"),
        ('api_key = "k"\nbase_url = "http://h"', "azure", "header", "api-key"),
        ('api_key = "k"\nbase_url = "http://h"\nauth = "bearer"', "azure", "bearer", "authorization"),
        ('api_key = "k"\nbase_url = "http://h"\nauth = "query:key"', "x", "query", "key"),
        ("", "ollama", "none", ""),
        ('api_key = "k"', "ollama", "bearer", "authorization"),
        ('auth = "none"', "openai", "none", ""),
        ("", "sandbox", "none", ""),
    ],
)
def test_how_the_secret_is_sent(text: str, name: str, kind: str, auth_name: str) -> None:
    ready = upstream(text, name=name)
    assert (ready.auth, ready.auth_name) == (kind, auth_name)
    assert (ready.secret is None) == (kind == "none")


@pytest.mark.parametrize(("path", "deployments"), [("openai", True), ("openai/v1", False), ("openai/v1/", False)])
def test_azure_has_deployments_in_its_older_api_only(path: str, deployments: bool) -> None:
    assert upstream(f'api_key = "k"\nbase_url = "https://a/{path}"', name="azure").deployments is deployments


def test_the_sandbox_has_a_cost() -> None:
    ready = upstream("", name="sandbox")
    assert (ready.base_url, ready.cost) == ("", {"input": Decimal(1), "output": Decimal(2)})


def test_upstreams_without_their_secrets() -> None:
    known = conf.known_upstreams(parse('[upstreams.openai]\napi_key = "${K}"\n[upstreams.ollama]'))
    assert list(known) == ["openai", "ollama"]
    assert known["openai"].secret is None
    assert known["openai"].catalogue == "openai"


# ── finding ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a config in every place where one is looked for."""
    for folder in ("flag", "env", "cwd", "xdg/llmgate", "home/.config/llmgate"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "llmgate.toml").touch()
    return tmp_path


def test_where_the_config_is_found(home: Path) -> None:
    env = {"LLMGATE_CONFIG": str(home / "env/llmgate.toml"), "XDG_CONFIG_HOME": str(home / "xdg")}
    env["HOME"] = str(home / "home")
    cwd = home / "cwd"
    found: list[str] = []

    def look(explicit: str | None = None) -> None:
        path = conf.find_config(explicit, env, cwd)
        found.append(str(path.parent.relative_to(home)) if path else "none")

    look("../flag/llmgate.toml")
    look()
    env["LLMGATE_CONFIG"] = ""
    look()
    (cwd / "llmgate.toml").unlink()
    look()
    env["XDG_CONFIG_HOME"] = "relative is ignored"
    look()
    env["HOME"] = str(home)
    look()
    assert found == ["cwd/../flag", "env", "cwd", "xdg/llmgate", "home/.config/llmgate", "none"]


@pytest.mark.parametrize(
    ("explicit", "env"), [("no.toml", {}), (None, {"LLMGATE_CONFIG": "no.toml"}), ("x" * 5000, {})]
)
def test_a_config_that_was_asked_for_must_be_there(explicit: str | None, env: dict[str, str], tmp_path: Path) -> None:
    where = "--config" if explicit else "LLMGATE_CONFIG"
    with pytest.raises(ConfigError, match=rf"there is no such file \({where} names it\)"):
        conf.find_config(explicit, env, tmp_path)


def test_a_folder_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a folder \(--config names it\): name the file in it"):
        conf.find_config(".", {}, tmp_path)


def test_a_config_in_the_home(home: Path) -> None:
    assert conf.find_config("~/llmgate.toml", {"HOME": str(home / "flag")}, home) == home / "flag/llmgate.toml"


def test_the_environment_goes_before_env_local_before_env(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=env\nB=env\nC=env\nD='a$B${B}'\nexport E = x # y\nEMPTY\n")
    (tmp_path / ".env.local").write_text("A=local\nB=local\n")
    merged = conf.environment(tmp_path / "llmgate.toml", {"A": "real", "Z": "real"})
    assert merged == {"A": "real", "B": "local", "C": "env", "D": "a$B${B}", "E": "x", "Z": "real"}
    assert conf.environment(None, {"A": "real"}) == {"A": "real"}


def test_load(home: Path) -> None:
    cwd = home / "cwd"
    (cwd / "llmgate.toml").write_text("[upstreams.openai]")
    (cwd / ".env").write_text("OPENAI_API_KEY=sk-dotenv")
    config, env = conf.load(env={}, cwd=cwd)
    assert config.path == cwd / "llmgate.toml"
    assert config.folder == cwd
    assert resolve(config, env).upstreams["openai"].secret == Secret("sk-dotenv")


def test_load_without_a_config_reads_no_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("OPENAI_API_KEY=sk-dotenv")
    config, env = conf.load(env={"HOME": str(tmp_path)}, cwd=tmp_path)
    assert (config.path, config.folder, config.source) == (None, None, "environment")
    assert list(config.upstreams) == ["sandbox"]
    assert "OPENAI_API_KEY" not in env


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_config_that_cannot_be_read(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "llmgate.toml"
    if content:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"llmgate\.toml can't be read: "):
        conf.read(path, {})


def test_an_env_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"A=\xff")
    with pytest.raises(ConfigError, match=r"\.env can't be read: "):
        conf.environment(tmp_path / "llmgate.toml", {})


def test_a_config_from_windows(tmp_path: Path) -> None:
    path = tmp_path / "llmgate.toml"
    path.write_bytes(b'\xef\xbb\xbf[log]\r\nlevel = "debug"\r\n')
    assert conf.read(path, {}).log.level == "debug"


DATABASES = [
    ("--db", "LLMGATE_DB", "DATABASE_PATH", "books.db", "/here/--db"),
    (None, "LLMGATE_DB", "DATABASE_PATH", "books.db", "/here/LLMGATE_DB"),
    (None, None, "DATABASE_PATH", "books.db", "/here/DATABASE_PATH"),
    (None, None, "sqlite:///d.db", "books.db", "/here/d.db"),
    (None, None, "sqlite:////d.db", "books.db", "/d.db"),
    (None, None, None, "books.db", "/etc/gate/books.db"),
    (None, None, None, "${NAME}.db", "/etc/gate/x.db"),
    (None, None, None, "~/books.db", "/home/u/books.db"),
    (None, None, None, None, "/etc/gate/llmgate.db"),
]


@pytest.mark.parametrize(("flag", "llmgate_db", "database_path", "written", "found"), DATABASES)
def test_where_the_database_is(
    flag: str | None, llmgate_db: str | None, database_path: str | None, written: str | None, found: str
) -> None:
    config = Config(database=written, path=Path("/etc/gate/llmgate.toml"))
    env = {"HOME": "/home/u", "NAME": "x", "LLMGATE_DB": llmgate_db or "", "DATABASE_PATH": database_path or ""}
    assert conf.database_path(flag, config, env, Path("/here")) == Path(found)


@pytest.mark.parametrize(
    ("env", "found"),
    [({"HOME": "/u"}, "/u/.local/share/llmgate/llmgate.db"), ({"XDG_DATA_HOME": "/data"}, "/data/llmgate/llmgate.db")],
)
def test_where_the_database_is_without_a_config(env: dict[str, str], found: str) -> None:
    assert conf.database_path(None, Config(), env, Path("/here")) == Path(found)


@pytest.mark.parametrize(
    ("flag", "config", "sentence"),
    [
        ("postgresql://u:pw@h/db", Config(), "--db must be .*: only SQLite is supported"),
        ("sqlite:///:memory:", Config(), "--db must be .*: a database in memory would be gone"),
        ("sqlite://", Config(), "--db must be the path of an SQLite file, or sqlite:///path"),
        (
            None,
            Config(database="${NO}"),
            "environment: database needs the environment variable NO, which is not set: export it",
        ),
    ],
)
def test_what_is_no_database(flag: str | None, config: Config, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        conf.database_path(flag, config, {}, Path("/here"))
    assert "pw" not in caught.value.message


def test_the_zone() -> None:
    assert conf.timezone_name(Config(), {}) is None
    assert conf.timezone_name(parse('timezone = "${Z}"'), {"Z": "UTC"}) == "UTC"
    with pytest.raises(ConfigError, match="timezone must be an IANA time zone"):
        conf.timezone_name(parse('timezone = "${Z}"'), {"Z": "Mars"})


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:8000", "127.0.0.1", 8000), ("[::1]:0", "::1", 0), ("a.b:65535", "a.b", 65535)],
)
def test_split_bind(text: str, host: str, port: int) -> None:
    assert conf.split_bind(text) == (host, port)


@pytest.mark.parametrize("text", ["", ":80", "h", "h:", "h:x", "h:65536", "::1:80", "[x]:80", "[]:80", "http://h:80"])
def test_what_is_no_bind(text: str) -> None:
    with pytest.raises(UsageError, match="is no address to listen on"):
        conf.split_bind(text)


# ── no config at all ──────────────────────────────────────────────────────────────────────────────────────────────────

OPENAI = {"OPENAI_API_KEY": "k"}
AZURE = {"AZURE_OPENAI_API_KEY": "k", "AZURE_OPENAI_ENDPOINT": "https://a.openai.azure.com/"}
GROQ, TOGETHER, FIREWORKS = {"GROQ_API_KEY": "k"}, {"TOGETHER_API_KEY": "k"}, {"FIREWORKS_API_KEY": "k"}
NAMELESS = {"UPSTREAM_API_KEY": "k", "UPSTREAM_BASE": "http://h/v1/"}

FOUND: list[tuple[dict[str, str], dict[str, str]]] = [
    ({}, {"sandbox": ""}),
    ({"OPENAI_API_KEY": ""}, {"sandbox": ""}),
    ({"AZURE_OPENAI_API_KEY": "k"}, {"sandbox": ""}),
    ({"UPSTREAM_API_KEY": "k"}, {"sandbox": ""}),
    (OPENAI, {"openai": "https://api.openai.com/v1"}),
    (OPENAI | {"OPENAI_BASE_URL": "http://h/v1/"}, {"openai": "http://h/v1"}),
    (OPENAI | {"OPENAI_BASE_URL": ""}, {"openai": "https://api.openai.com/v1"}),
    (GROQ | OPENAI, {"openai": "https://api.openai.com/v1", "groq": "https://api.groq.com/openai/v1"}),
    (GROQ | {"GROQ_BASE_URL": "https://api.groq.com"}, {"groq": "https://api.groq.com/openai/v1"}),
    (GROQ | {"GROQ_BASE_URL": "http://h/openai/v1"}, {"groq": "http://h/openai/v1"}),
    (TOGETHER | {"TOGETHER_BASE_URL": "http://h/"}, {"together": "http://h/v1"}),
    (FIREWORKS | {"FIREWORKS_BASE_URL": "http://h/inference/v1"}, {"fireworks": "http://h/inference/v1"}),
    (AZURE, {"azure": "https://a.openai.azure.com/openai/v1"}),
    (AZURE | {"OPENAI_API_VERSION": "2024-10-21"}, {"azure": "https://a.openai.azure.com/openai"}),
    (NAMELESS, {"upstream": "http://h/v1"}),
    (NAMELESS | OPENAI, {"openai": "https://api.openai.com/v1", "upstream": "http://h/v1"}),
    ({"UPSTREAM_BASE": "http://h"}, {"upstream": "http://h"}),
]


@pytest.mark.parametrize(("env", "urls"), FOUND)
def test_upstreams_from_the_environment(env: dict[str, str], urls: dict[str, str]) -> None:
    config = Config(upstreams=conf.upstreams_from_environment(env))
    ready = resolve(config, env).upstreams
    assert {name: found.base_url for name, found in ready.items()} == urls
    assert all((found.secret == Secret("k")) == (found.auth != "none") for found in ready.values())


@pytest.mark.parametrize(
    ("env", "base_url", "deployments"),
    [
        (AZURE | {"OPENAI_API_VERSION": "v"}, "https://a.openai.azure.com/openai", True),
        ({"UPSTREAM_API_KEY": "k", "UPSTREAM_BASE": "http://h", "UPSTREAM_API_VERSION": "v"}, "http://h/openai", True),
        (NAMELESS | {"UPSTREAM_API_VERSION": "v"}, "http://h/v1", False),
    ],
)
def test_an_api_version_speaks_azure(env: dict[str, str], base_url: str, deployments: bool) -> None:
    (ready,) = resolve(Config(upstreams=conf.upstreams_from_environment(env)), env).upstreams.values()
    assert (ready.base_url, ready.deployments) == (base_url, deployments)
    assert (ready.preset, ready.auth_name, ready.query) == ("azure", "api-key", {"api-version": "v"})


def test_a_bad_base_url_names_its_variable() -> None:
    with pytest.raises(ConfigError, match=r"^environment: OPENAI_BASE_URL must be an http:// or https:// URL"):
        conf.upstreams_from_environment(OPENAI | {"OPENAI_BASE_URL": "h/v1"})


def test_a_file_without_upstreams_takes_those_of_the_environment() -> None:
    text = 'models.m.routes = [{ upstream = "openai" }]'
    assert list(parse(text, env=OPENAI).upstreams) == ["openai"]
    assert list(parse("[upstreams.sandbox]", env=OPENAI).upstreams) == ["sandbox"]


# ── writing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_to_toml_masks_secrets_and_nothing_else() -> None:
    text = """
        server.max_body = "1000KiB"
        [upstreams.openai]
        api_key = "${KEY}"
        headers = { X-Title = "intranet", X-Api-Key = "pw1", Authorization = "${KEY}" }
        [upstreams.gpu1]
        base_url = "http://h"
        api_key = "Bearer ${pw2}"
        query = { api-version = "1", key = "pw3" }
        price = { input = 0.000000001 }
        """
    shown = conf.to_toml(parse(text))
    assert "pw" not in shown
    again = parse(shown)
    assert again.server.max_body == 1000 * 1024
    assert again.upstreams["openai"].api_key == (Secret("${KEY}"),)
    assert again.upstreams["openai"].headers == {
        "X-Title": "intranet",
        "X-Api-Key": "***",
        "Authorization": "${KEY}",
    }
    assert again.upstreams["gpu1"].query == {"api-version": "1", "key": "***"}
    assert again.upstreams["gpu1"].price == {"input": Decimal("1e-9")}


def test_to_toml_and_back() -> None:
    example = parse(EXAMPLE.read_text(encoding="utf-8"))
    assert parse(conf.to_toml(example)) == example
    assert parse(conf.to_toml(Config()), env={}) == parse("", env={})


@pytest.mark.parametrize("name", PRESETS)
def test_default_toml_is_a_config(name: str) -> None:
    text = conf.default_toml([name], bind="[::1]:9000", billing="prepaid", timezone="Europe/Berlin")
    config = parse(text)
    assert list(config.upstreams) == [name]
    assert (config.server.bind, config.defaults.billing) == ("[::1]:9000", "prepaid")
    assert (config.timezone, config.database) == ("Europe/Berlin", "llmgate.db")
    assert parse(conf.default_toml()).timezone is None
    env = {"AZURE_OPENAI_ENDPOINT": "https://a/"} | dict.fromkeys(PRESETS[name].secret_env, "k")
    assert resolve(config, env).upstreams[name].base_url.endswith("/v1") or name in ("gemini", "sandbox")


def test_default_toml_refuses_what_it_does_not_know() -> None:
    with pytest.raises(UsageError, match="'opnai' is no known upstream: did you mean openai"):
        conf.default_toml(["opnai"])


# ── the example ───────────────────────────────────────────────────────────────────────────────────────────────────────


def uncommented() -> str:
    """The example with every option set: `#option` is one, `# prose` is none."""
    return re.sub(r"(?m)^#(?=\S)", "", EXAMPLE.read_text(encoding="utf-8"))


def options(value: Any) -> Iterator[tuple[type[msgspec.Struct], str]]:
    """Every option that is set anywhere in a config, as table and name."""
    if isinstance(value, msgspec.Struct):
        for field in msgspec.structs.fields(value):
            part = getattr(value, field.name)
            if part is not None and part != () and part != {}:
                yield type(value), field.name
                yield from options(part)
    elif isinstance(value, dict | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from options(part)


TABLES = (
    Config,
    conf.Server,
    conf.Defaults,
    conf.Log,
    conf.Accounting,
    UpstreamTable,
    conf.Timeout,
    conf.ModelTable,
    conf.Route,
    conf.PathTable,
    conf.OidcTable,
)


def test_the_example_has_every_option() -> None:
    config = replace(parse(uncommented()), path=Path("llmgate.toml"), listed={"gpt-4o": FREE}, admin_token=Secret("t"))
    every = {(table, field.name) for table in TABLES for field in msgspec.structs.fields(table)}
    assert every - set(options(config)) == set()


def test_the_example_is_shown(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "llmgate", "config", "example"],
        capture_output=True,
        check=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert run.stdout == EXAMPLE.read_bytes()


def test_the_example_is_shipped() -> None:
    wheel = tomllib.loads((EXAMPLE.parent / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {EXAMPLE.name: f"llmgate/{EXAMPLE.name}"}


def test_the_example_has_every_price() -> None:
    price = parse(uncommented()).models["gpt-fast"].price
    assert isinstance(price, dict)
    assert tuple(price) == conf.PRICE_KEYS


def test_the_example_writes_every_option_with_a_comment() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    bare = [line for before, line in pairwise(lines) if re.match(r"#?\w+ = ", line) and not before]
    assert bare == []


def test_the_example_shows_the_defaults() -> None:
    config = parse(EXAMPLE.read_text(encoding="utf-8"))
    assert (config.server, config.log, config.accounting) == (conf.Server(), conf.Log(), conf.Accounting())
    assert config.defaults == conf.Defaults()
    assert config.upstreams["gpu1"].timeout == conf.Timeout()


def test_the_example_resolves(tmp_path: Path) -> None:
    ready = resolve(parse(EXAMPLE.read_text(encoding="utf-8"), tmp_path / "llmgate.toml"), EXAMPLE_ENV)
    assert set(ready.upstreams) == {"openai", "azure", "gpu1", "sandbox"}
    (tmp_path / "azure.key").write_text("az-file")
    shutil.copy(tls.authority(tmp_path).certificate, tmp_path / "corp.pem")
    more = dict.fromkeys(("PROXY_PASSWORD", "GOOGLE_CLIENT_SECRET", "SSO_CLIENT_SECRET"), "pw")
    ready = resolve(parse(uncommented(), tmp_path / "llmgate.toml"), EXAMPLE_ENV | more)
    assert ready.upstreams["azure"].secret == Secret("az-file")
