"""Clients of other programs against a real server: LangChain where it is installed, what open-webui sends."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import sys

import httpx
import pytest

TALK = [{"role": "system", "content": "短"}, {"role": "user", "content": "你好"}]


# Its packages warn of what they will change.
@pytest.mark.filterwarnings("ignore")
def test_langchain_invokes_streams_and_embeds(client):
    langchain = pytest.importorskip("langchain_openai")
    address = {"base_url": f"{client.address}/v1", "api_key": "unused", "model": "tiny"}
    chat = langchain.ChatOpenAI(**address, max_tokens=5, temperature=0)
    whole = chat.invoke([("system", "短"), ("user", "你好")])
    assert whole.response_metadata["model_name"] == "tiny"
    assert whole.usage_metadata["output_tokens"] <= 5
    assert (
        "".join(piece.content for piece in chat.stream([("system", "短"), ("user", "你好")])) == whole.content
    )
    assert len(chat.batch(["a", "b"])) == 2
    text = langchain.OpenAI(**address, max_tokens=4, temperature=0)
    assert isinstance(text.invoke("今天"), str)
    vectors = langchain.OpenAIEmbeddings(**address, check_embedding_ctx_length=False)
    assert len(vectors.embed_documents(["今天", "word"])) == 2


# Its packages warn of what they will change.
@pytest.mark.filterwarnings("ignore")
def test_langchain_gets_structured_answers(endless):
    langchain = pytest.importorskip("langchain_openai")
    chat = langchain.ChatOpenAI(
        base_url=f"{endless.address}/v1", api_key="unused", model="tiny", max_tokens=400
    )
    form = {"title": "Answer", "type": "object", "properties": {"sure": {"type": "boolean"}}}
    form |= {"required": ["sure"], "additionalProperties": False}
    found = chat.with_structured_output(form, method="json_schema").invoke("你好")
    assert isinstance(found["sure"], bool)


def test_what_open_webui_sends(client):
    """Its requests as of version 0.6: the list, a streamed answer, and the jobs it gives the model itself."""
    listed = client.get("/v1/models").json()["data"]
    assert [one["id"] for one in listed] == ["tiny"]
    body = {"stream": True, "model": "tiny", "messages": TALK, "stream_options": {"include_usage": True}}
    body |= {"temperature": 0.7, "top_p": 0.9, "max_tokens": 6, "frequency_penalty": 0.1, "seed": 7}
    with client.http.stream("POST", "/v1/chat/completions", json=body) as streamed:
        assert streamed.status_code == 200
        assert streamed.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in streamed.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    assert json.loads(lines[-2])["usage"]["completion_tokens"] <= 6
    title = {"model": "tiny", "messages": TALK[1:], "stream": False, "max_completion_tokens": 9}
    reply = client.post("/v1/chat/completions", title)
    assert reply.status_code == 200
    assert reply.json()["choices"][0]["message"]["role"] == "assistant"
    parts = [{"role": "user", "content": [{"type": "text", "text": "你好"}]}]
    assert client.post("/v1/chat/completions", {"messages": parts, "max_tokens": 2}).status_code == 200


def test_a_picture_is_refused_and_not_fetched(client):
    parts = [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/a.png"}}]
    reply = client.post("/v1/chat/completions", {"messages": [{"role": "user", "content": parts}]})
    assert reply.status_code == 400


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_tls_is_spoken(checkpoint, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "chain.pem"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "1",
                "-subj",
                "/CN=localhost",
            ),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    command = [sys.executable, "-m", "weft", "serve", str(checkpoint), "--port", "0"]
    command += ["--tls-certificate", str(certificate), "--tls-key", str(key)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            ready = process.stderr.readline()
            address = ready.split(" is served on ")[1].split(" ")[0]
            assert address.startswith("https://")
            trusting = ssl.create_default_context(cafile=str(certificate))
            asked = {"prompt": "好", "max_tokens": 2}
            assert httpx.post(f"{address}/v1/completions", json=asked, verify=trusting).status_code == 200
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{address}/health")
            with pytest.raises(httpx.RemoteProtocolError):
                httpx.get(f"{address.replace('https', 'http')}/health")
        finally:
            process.terminate()
            process.wait(60)
