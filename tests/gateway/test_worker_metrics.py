"""The metrics of several workers in one exposition."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from unbroken.gateway.metrics import Metrics
from unbroken.gateway.worker_metrics import of_all_workers

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    """What Prometheus' own reader makes of a text."""
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    by_name = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in found}
    assert len(by_name) == len(found), "a series is there twice"
    return by_name


def of_worker(number: int, found: Samples) -> Samples:
    return {(name, labels | {("worker", str(number))}): value for (name, labels), value in found.items()}


#: Clients can invent model names under a glob. Lines end with \n only, in Prometheus' reader as in ours.
names = st.text('ab19 "\\\n{}=,#é\u2028\x0b', max_size=12) | st.sampled_from(['",worker="9', "} 1", "# TYPE x"])


@given(st.dictionaries(st.integers(1, 9), st.lists(st.tuples(names, names, st.integers(0, 9)), max_size=4), max_size=4))
def test_it_is_the_samples_of_each_with_its_number(asked: dict[int, list[tuple[str, str, int]]]) -> None:
    texts = {}
    for worker, answers in asked.items():
        metrics = Metrics()
        for model, upstream, tokens in answers:
            answered = metrics.answered(model, upstream)
            answered.requests["finished"] = answered.requests.get("finished", 0) + 1
            answered.output_tokens += tokens
            answered.duration.observe(tokens)
        texts[worker] = metrics.render().decode()
    wanted: Samples = {}
    for worker, text in texts.items():
        wanted |= of_worker(worker, samples(text))
    merged = of_all_workers(texts)
    assert samples(merged) == wanted
    families = [line.split(" ")[2] for line in merged.split("\n") if line.startswith("# TYPE ")]
    assert len(families) == len(set(families)), "each family is there once, its samples together"
