from __future__ import annotations

import json

import pytest

from benchmarks import resource_corpus, resource_model, resource_rare_stages
from hwgen.plan import stages
from hwgen.plan.resource_structure import structure
from rtl_templates.target import target_of


def test_a_fit_finds_the_coefficients_of_its_samples():
    def sample(lanes_in: int, lanes_out: int, bits: int) -> resource_corpus.Sample:
        layout = ((0,) * lanes_out,)
        stage = stages.Narrow(
            name="narrow", cycles=1, bits=bits, signed=True, lanes_in=lanes_in, lanes_out=lanes_out, layout=layout
        )
        found = structure(stage, "ecp5", target_of("ecp5")).amounts
        lut = 3 * found["taken"] + 2 * found["given"] + 20
        return resource_corpus.Sample(stage, "ecp5", round(lut), 0, 0)

    samples = [sample(a, b, bits) for a, b in ((8, 1), (8, 4), (16, 2), (30, 15), (64, 1)) for bits in (8, 20)]
    coefficients, errors = resource_model.fit(samples)
    found = coefficients["ecp5"]["narrow"]
    assert found["taken"] == pytest.approx(3, rel=0.02)
    assert found["given"] == pytest.approx(2, rel=0.1)
    assert errors["ecp5"]["narrow"]["stages"] == 10
    assert errors["ecp5"]["narrow"]["most"] < 0.02
    assert not coefficients["ultrascale+"]


def test_samples_are_kept_in_a_file(tmp_path, monkeypatch):
    made = []

    def synthesised(stage, component, family):
        made.append(component)
        return resource_corpus.Sample(stage, family, 10, 1, 0.5)

    monkeypatch.setattr(resource_corpus, "synthesised", synthesised)
    path = tmp_path / "samples.jsonl"
    samples = resource_corpus.Samples(path)
    for stage, _ in resource_rare_stages.rare(3, "ecp5"):
        samples.measure(stage, lambda: "component", "ecp5")
    assert len(made) == len(samples.samples) == 14
    again = resource_corpus.Samples(path)
    assert again.samples == samples.samples
    assert again.measure(samples.samples[0].stage, lambda: "component", "ecp5") is None
    assert again.measure(samples.samples[0].stage, lambda: "component", "ultrascale+") is not None


def test_the_kept_samples_cover_every_kind_of_stage():
    lines = resource_model.SAMPLES.read_text().splitlines()
    kinds = {(content["family"], content["stage"]["kind"]) for content in map(json.loads, lines)}
    assert kinds == {(family, kind) for family in ("ecp5", "ultrascale+") for kind in resource_corpus.KINDS}


@pytest.mark.parametrize(
    ("planned", "synthesised", "near"),
    [(114, 100, True), (116, 100, False), (5, 3, True), (7, 3, False), (22, 19, True), (17, 20, True), (16, 20, False)],
)
def test_what_is_near(planned, synthesised, near):
    assert resource_model.near(planned, synthesised) == near


@pytest.mark.parametrize("family", ["ecp5", "ultrascale+"])
def test_random_networks_are_planned_for_a_family(family):
    found = resource_corpus.planned(resource_model.FIRST_CHECKED + 1, family)
    assert found is not None
    packed, plan = found
    assert (plan.mode, plan.family) == ("sparse-dense", family)
    layers = {layer.name for layer in packed.network.layers} | {"input"}
    assert {stage.name.split(".")[0] for stage in plan.stages} <= layers
