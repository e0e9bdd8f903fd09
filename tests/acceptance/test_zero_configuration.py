"""No configuration at all: what is there is found, and asked."""

from pathlib import Path

from tests.acceptance.processes import gateway_process, http, scripted_process


def test_what_is_found_is_asked(tmp_path: Path) -> None:
    with (
        scripted_process(model="llama3.2:latest", words=2) as ollama,
        scripted_process(model="gpt-4o-mini", words=3) as openai,
    ):
        variables = {
            "UNBROKEN_OLLAMA_BASE_URL": ollama,
            "UNBROKEN_OPENAI_BASE_URL": openai,
            "OPENAI_API_KEY": "sk-of-a-developer",
        }
        with gateway_process(cwd=tmp_path, variables=variables) as gateway:
            listed = http.get(f"{gateway.base_url}/models").json()["data"]
            assert [model["id"] for model in listed] == ["llama3.2:latest", "unbroken-demo", "gpt-4o-mini"]
            for model, words in (("llama3.2:latest", 2), ("gpt-4o-mini", 3)):
                question = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
                answer = http.post(f"{gateway.base_url}/chat/completions", json=question).json()
                assert answer["model"] == model
                assert len(answer["choices"][0]["message"]["content"].split()) == words


def test_without_anything_there_is_the_demo_model(tmp_path: Path) -> None:
    with gateway_process(cwd=tmp_path) as gateway:
        listed = http.get(f"{gateway.base_url}/models").json()["data"]
        assert [model["id"] for model in listed] == ["unbroken-demo"]
