"""Who may call a server, and how often: without a model, for nothing here gets that far."""

import hmac

import httpx
import pytest
from live_server import problem, run
from pydantic import ValidationError
from starlette.routing import Mount

from ussfast.audio import FORMATS
from ussfast.cli import serve as command
from ussfast.cli.main import main
from ussfast.errors import InputError
from ussfast.serve import guard
from ussfast.serve.app import create_app
from ussfast.serve.jobs import asking
from ussfast.serve.settings import ServeSettings, settings_of

TOKEN = "a-token-of-some-length"
OPEN = {"/health", "/ready", "/", "/page/index.html", "/favicon.ico"}
SHOWN = {"Authorization": f"Bearer {TOKEN}"}


def caller(tmp_path, base="http://127.0.0.1:8400", **settings):
    """Calls an application that was not started; (method, path, headers) -> answer."""
    app = create_app(ServeSettings(data=tmp_path / "data", **settings))

    def call(path, method="GET", headers=None, **more):
        async def once():
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url=base) as client:
                return await client.request(method, path, headers=headers, **more)

        return run(once())

    call.app = app
    return call


def routes(app):
    """(method, path) of all that there is."""

    def walked(found):
        for route in found:
            inside = getattr(route, "original_router", None)
            if inside is not None:
                yield from walked(inside.routes)
            elif isinstance(route, Mount):
                yield "GET", f"{route.path}/index.html"
            else:
                yield from ((method, route.path) for method in getattr(route, "methods", None) or ("GET",))

    return sorted(walked(app.routes))


def test_every_route_wants_the_token(tmp_path):
    call = caller(tmp_path, token=TOKEN)
    there = routes(call.app)
    assert len(there) > 15 and ("POST", "/v1/audio/separations") in there and ("GET", "/metrics") in there
    shown = ("Bearer a-token-of-some-lengt", TOKEN, "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x")
    wrong = ({}, *({"Authorization": value} for value in shown))
    for method, path in there:
        path = path.replace("{id}", "1").replace("{label:path}", "speech").replace("{name:path}", "dog")
        for headers in wrong:
            answer = call(path, method, headers)
            if path in OPEN or path.startswith("/page/"):
                assert answer.status_code in (200, 503)
                continue
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer", path
            assert method == "HEAD" or problem(answer, 401)
        assert call(path, method, SHOWN).status_code not in (401, 403)


@pytest.mark.parametrize(
    "path", ["/page/../v1/jobs", "/page/..%2fv1%2fjobs", "/health/", "/HEALTH", "/page", "/v1/jobs#/health",
             "/v1/jobs?/page/", "/page/%2e%2e/v1/jobs", "/page//v1/jobs"]
)  # fmt: skip
def test_no_path_leads_around_the_token(tmp_path, path):
    answer = caller(tmp_path, token=TOKEN)(path)
    assert answer.status_code in (401, 404, 307), path  # nothing of /v1 without the token
    assert "created" not in answer.text


def test_tokens_are_compared_in_the_time_that_any_takes(tmp_path, monkeypatch):
    compared, real = [], hmac.compare_digest

    def compare(one, other):
        compared.append((one, other))
        return real(one, other)

    monkeypatch.setattr(guard.hmac, "compare_digest", compare)
    call = caller(tmp_path, token=TOKEN)
    protocols = {"Sec-WebSocket-Protocol": "ussfast.v1, bearer.eHg, bearer.!!"}
    assert call("/v1/jobs", headers=protocols | {"Authorization": "Bearer wrong"}).status_code == 401
    assert [given for given, _ in compared] == [b"wrong", b"xx", b""]
    assert {right for _, right in compared} == {TOKEN.encode()}


def test_hosts_without_a_token(tmp_path):
    call = caller(tmp_path)
    for host in ("localhost", "localhost:8400", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8400", "LOCALHOST"):
        assert call("/health", headers={"Host": host}).status_code == 200, host
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "evil.example:8400", "[::2]", "[::1", "",
                 "localhost@evil.example", "evil.example#localhost", "localhost evil"):  # fmt: skip
        assert problem(call("/health", headers={"Host": host}), 403), host
    assert caller(tmp_path, token=TOKEN)("/health", headers={"Host": "my.server"}).status_code == 200


def test_origins(tmp_path):
    call = caller(tmp_path, allowed_origins=("https://app.example",))
    for origin in ("http://127.0.0.1:8400", "https://app.example"):
        assert call("/health", headers={"Origin": origin}).status_code == 200
    others = ("https://evil.example", "null", "http://127.0.0.1:8401", "https://app.example.evil", "http://[::1", "x")
    for origin in others:
        assert problem(call("/health", headers={"Origin": origin}), 403), origin
        assert problem(call("/v1/jobs/1/cancel", "POST", {"Origin": origin}), 403)
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    assert call("/v1/jobs", "OPTIONS", asked).headers["access-control-allow-origin"] == "https://app.example"
    asked["Origin"] = "https://evil.example"
    assert "access-control-allow-origin" not in call("/v1/jobs", "OPTIONS", asked).headers
    plain = caller(tmp_path)("/v1/jobs", "OPTIONS", asked)
    assert plain.status_code == 403 and "access-control-allow-origin" not in plain.headers


def test_rates():
    now = [0.0]
    rates = guard.Rates(60, lambda: now[0])
    assert [rates.wait("a") for _ in range(60)] == [0.0] * 60
    assert rates.wait("a") == 1.0 and rates.wait("b") == 0.0
    now[0] = 0.5
    assert rates.wait("a") == 0.5
    now[0] = 1.5
    assert rates.wait("a") == 0.0 and rates.wait("a") > 0
    for number in range(guard.ADDRESSES + 10):
        rates.wait(f"address {number}")
    assert len(rates._left) == guard.ADDRESSES


def test_too_many_requests(tmp_path):
    call = caller(tmp_path, rate_per_minute=3)
    assert [call("/nothing").status_code for _ in range(3)] == [404] * 3
    answer = call("/nothing")
    assert "3 requests in a minute" in problem(answer, 429) and int(answer.headers["retry-after"]) >= 1
    assert call("/health").status_code == 200


def test_nothing_works_before_the_model_is_there(tmp_path):
    call = caller(tmp_path)
    assert call("/ready").json() == {"ready": False, "reasons": {"model": "being loaded"}}
    answer = call("/v1/model")
    assert "loaded" in problem(answer, 503) and answer.headers["retry-after"] == "2"


def test_a_host_that_others_reach_needs_a_token(tmp_path):
    for host in ("0.0.0.0", "::", "192.168.1.2", "my.server"):
        with pytest.raises(ValidationError, match="listens on this machine only"):
            ServeSettings(host=host, data=tmp_path)
        assert ServeSettings(host=host, token=TOKEN, data=tmp_path).host == host
    for host in ("127.0.0.1", "127.0.0.2", "::1", "localhost"):
        assert ServeSettings(host=host, data=tmp_path).is_loopback


def test_no_more_threads_than_cores(tmp_path):
    with pytest.raises(ValidationError, match="less than or equal"):
        ServeSettings(data=tmp_path, threads=10**6)
    assert 1 <= ServeSettings(data=tmp_path).threads <= 4


@pytest.mark.parametrize(
    "variables, told",
    [
        ({"PORT": "many"}, "port: Input should be a valid integer"),
        ({"PORT": "70000"}, "port: Input should be less than or equal to 65535, not '70000'"),
        ({"TOKEN": "short"}, "token: a token has 16 printable ASCII characters or more"),
        ({"HOST": "0.0.0.0"}, "host 0.0.0.0: without a token"),
        ({"DRAIN_S": "-1"}, "drain_s: Input should be greater than 0"),
        ({"MAX_BODY": "nan"}, "max_body"),
        ({"PROT": "1"}, "USSFAST_SERVE_PROT: no such setting"),
    ],
)
def test_wrong_settings_are_one_line(monkeypatch, variables, told):
    for name, value in variables.items():
        monkeypatch.setenv(f"USSFAST_SERVE_{name}", value)
    with pytest.raises(InputError) as caught:
        settings_of({})
    assert told in str(caught.value) and "\n" not in str(caught.value)
    assert "TOKEN" not in variables or variables["TOKEN"] not in str(caught.value)


def test_a_missing_extra_is_told(monkeypatch, capsys):
    monkeypatch.setattr(command, "NEEDED", ("uvicorn", "no_such_package"))
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--port", "0"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "ussfast: serving needs no_such_package: pip install 'ussfast[serve]'\n"


def test_variables_and_options(monkeypatch, tmp_path):
    monkeypatch.setenv("USSFAST_SERVE_PORT", "1234")
    monkeypatch.setenv("USSFAST_SERVE_MAX_JOBS", "7")
    monkeypatch.setenv("USSFAST_SERVE_ALLOWED_ORIGINS", "https://a.example/, https://b.example")
    found = settings_of({"port": 8500, "data": tmp_path})
    assert (found.port, found.max_jobs, found.data) == (8500, 7, tmp_path)
    assert found.allowed_origins == ("https://a.example", "https://b.example")
    assert TOKEN not in repr(settings_of({"token": TOKEN}))


def test_the_schema_has_the_fields_that_forms_may_have(tmp_path):
    schema = caller(tmp_path)("/openapi.json").json()
    places = {"/v1/audio/separations": ("file", *asking.SEPARATION), "/v1/prompts": ("clips", *asking.ENROLMENT)}
    for path, fields in places.items():
        route = schema["paths"][path]["post"]
        body = route["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert tuple(body["properties"]) == fields and set(body["required"]) <= set(fields)
        if "format" in fields:
            assert body["properties"]["format"]["enum"] == list(FORMATS)
            assert [one["name"] for one in route["parameters"]] == ["Prefer"]
