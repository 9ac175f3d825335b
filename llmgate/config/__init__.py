"""llmgate.toml: found, read, checked, and made ready for use.

    find_config ─► load ─► Config ───────────────────────► every command
                             └─► resolve ─► Resolved ────► the daemon and the checks

A `Config` is what is written: its `${NAME}`s are still references, so that a command that needs no secret works without
one. `resolve` replaces them, reads the secrets, and completes each upstream by its preset.

The structs in `tables` are the whole grammar: a field's type says what may stand there, its `Rule` says it in words. A
table of the file is a struct, an option is a field; adding either is a change there and in llmgate.toml.example, which
a test compares. Errors name the file, the path of the key as one would write it, and what is allowed.

Imports go one way: rules ─► tables ─► variables ─► reading ─► resolving ─► finding; writing stands beside finding,
paths below them all.
"""

from .finding import Loaded, database_path, environment, find_config, left_behind, load, split_bind, timezone_name
from .paths import FILE_NAME
from .reading import InvalidConfig, dotted, not_about, parse, read
from .resolving import Place, Resolved, Upstream, known_upstreams, resolve, resolve_part, secret_places
from .rules import METHODS, MOST_WORKERS, PLAIN_PATH, PRICE_KEYS, Secret, is_own
from .tables import (
    Accounting,
    Config,
    Defaults,
    Log,
    ModelTable,
    OidcTable,
    PathTable,
    Route,
    SelfService,
    Server,
    Timeout,
    UpstreamTable,
    issuer_of,
    label_of,
    passed_to,
)
from .variables import upstreams_from_environment
from .writing import default_toml, to_toml

__all__ = [
    "FILE_NAME",
    "METHODS",
    "MOST_WORKERS",
    "PLAIN_PATH",
    "PRICE_KEYS",
    "Accounting",
    "Config",
    "Defaults",
    "InvalidConfig",
    "Loaded",
    "Log",
    "ModelTable",
    "OidcTable",
    "PathTable",
    "Place",
    "Resolved",
    "Route",
    "Secret",
    "SelfService",
    "Server",
    "Timeout",
    "Upstream",
    "UpstreamTable",
    "database_path",
    "default_toml",
    "dotted",
    "environment",
    "find_config",
    "is_own",
    "issuer_of",
    "known_upstreams",
    "label_of",
    "left_behind",
    "load",
    "not_about",
    "parse",
    "passed_to",
    "read",
    "resolve",
    "resolve_part",
    "secret_places",
    "split_bind",
    "timezone_name",
    "to_toml",
    "upstreams_from_environment",
]
