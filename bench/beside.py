"""Others that are measured beside llmgate where they are installed: nginx, which meters nothing, and LiteLLM.

LiteLLM is looked for in the PATH (`litellm`); it has no database here, so it keeps no books.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable

from .processes import Process
from .scene import Scene, Target

LITELLM_STARTS_S = 120.0
LITELLM_KEY = "sk-bench"

NGINX = """\
daemon off;
master_process off;
pid @FOLDER@/nginx.pid;
error_log stderr;
worker_rlimit_nofile 20000;
events { worker_connections 4096; }
http {
  access_log off;
  client_body_temp_path @FOLDER@/body;
  proxy_temp_path @FOLDER@/proxy;
  fastcgi_temp_path @FOLDER@/fastcgi;
  uwsgi_temp_path @FOLDER@/uwsgi;
  scgi_temp_path @FOLDER@/scgi;
  keepalive_requests 1000000000;
  upstream mock { server @UPSTREAM@; keepalive 512; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:@PORT@ backlog=2048;
    location / {
      proxy_pass http://mock/nginx/;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }
  }
}
"""


def nginx(scene: Scene) -> Target | None:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        return None
    port = _free_port()
    folder = scene.folder / "nginx"
    folder.mkdir()
    config = NGINX.replace("@FOLDER@", str(folder)).replace("@PORT@", str(port))
    (folder / "nginx.conf").write_text(config.replace("@UPSTREAM@", scene.mock.address().removeprefix("http://")))
    command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]
    return scene.other("nginx", lambda: Process("nginx", command, folder, address=f"http://127.0.0.1:{port}"))


def litellm(scene: Scene) -> Target | None:
    program = shutil.which("litellm")
    if program is None:
        return None
    port = _free_port()
    folder = scene.folder / "litellm"
    folder.mkdir()
    upstream = {"model": "openai/bench", "api_base": f"{scene.mock.address()}/litellm/v1", "api_key": "none"}
    config = {"model_list": [{"model_name": "bench", "litellm_params": upstream}]}
    (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    command = [program, "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    command += ["--keepalive_timeout", "75"]  # its default of 5 s would close connections that wait for the leg's end
    env = {"PATH": os.environ.get("PATH", ""), "HOME": str(folder), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    env |= {"LITELLM_LOG": "ERROR", "LITELLM_MASTER_KEY": LITELLM_KEY}
    address = f"http://127.0.0.1:{port}"
    start = lambda: Process("litellm", command, folder, env, address=address)  # noqa: E731
    return scene.other("litellm", start, keys=(LITELLM_KEY,), within_s=LITELLM_STARTS_S)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


BESIDE: tuple[Callable[[Scene], Target | None], ...] = (nginx, litellm)
"""Each returns None where what it starts isn't installed."""
