"""The objective (Eq 5): its terms, weights and settings, and what it refuses."""
import inspect
import math

import pytest
import torch

from geoalignclip_nb.core import GeoAlignError
from geoalignclip_nb.losses.consistency import contrastive_consistency, textual_consistency
from geoalignclip_nb.losses.contrastive import DUPLICATES, global_loss, info_nce, rpa_loss
from geoalignclip_nb.losses.hard_negative import hard_negative_loss
from geoalignclip_nb.losses.objective import (
    SETTING_TERMS, TERMS, WEIGHTS, Objective, active_parts, named_weights, parse_loss_weights, region_outputs,
    require_outputs, unused_settings, unused_weights, with_htc)


def output(b=4, k=5, counts=(3, 0, 1, 0, 2), d=8, seed=0):
    "What the model returns, with random vectors"
    g = torch.Generator().manual_seed(seed)
    owner = torch.tensor([i for i in range(k) for _ in range(counts[i])], dtype=torch.long)
    sizes = dict.fromkeys(('image', 'brief', 'detailed'), b)
    sizes |= dict.fromkeys(('region', 'region_text', 'crop', 'hna_text'), k)
    sizes['negative'] = len(owner)
    out = {name: torch.randn(n, d, generator=g).requires_grad_() for name, n in sizes.items()}
    scales = dict(log_scale=2., log_scale_rpa=2.5, log_scale_hna=3.)
    out |= {name: torch.tensor(v, requires_grad=True) for name, v in scales.items()}
    ids = dict(brief_id=torch.arange(b), detailed_id=torch.arange(b), region_text_id=torch.arange(k))
    return out | ids | dict(negative_owner=owner)


# HTC: each caption with its own ids and weight

def repeated_captions():
    "An output whose brief captions repeat in another pattern than its detailed captions"
    return output() | dict(brief_id=torch.tensor([0, 0, 1, 2]), detailed_id=torch.tensor([0, 1, 2, 1]))


@pytest.mark.parametrize('duplicates', ['mask', 'multi_positive'])
def test_each_caption_has_its_own_ids(duplicates):
    out = repeated_captions()
    parts = Objective(duplicates=duplicates)(**out)
    image, scale = out['image'], out['log_scale']
    brief = info_nce(image, out['brief'], scale, out['brief_id'], duplicates=duplicates)
    detailed = info_nce(image, out['detailed'], scale, out['detailed_id'], duplicates=duplicates)
    torch.testing.assert_close(parts['htc_brief'], brief)
    torch.testing.assert_close(parts['htc_detailed'], detailed)
    torch.testing.assert_close(parts['htc'], brief + detailed)
    ids = dict(brief_id=out['brief_id'], detailed_id=out['detailed_id'])
    whole = textual_consistency(image, out['brief'], out['detailed'], scale, **ids, duplicates=duplicates)
    torch.testing.assert_close(whole, parts['htc'])
    assert detailed != info_nce(image, out['detailed'], scale, out['brief_id'], duplicates=duplicates)


def test_htc_has_two_weights():
    out = output()
    parts = Objective(dict(htc_brief=2, htc_detailed=3), rpa=False, hna=False, vic=False)(**out)
    assert list(parts) == ['htc_brief', 'htc_detailed', 'htc', 'total']
    torch.testing.assert_close(parts['total'], 2 * parts['htc_brief'] + 3 * parts['htc_detailed'])
    assert parse_loss_weights(dict(htc=.5)) == WEIGHTS | dict(htc_brief=.5, htc_detailed=.5)
    assert parse_loss_weights(dict(htc_detailed=2, htc=.5)) == WEIGHTS | dict(htc_brief=.5, htc_detailed=2.)
    assert with_htc({'rpa': 1.}) == {'rpa': 1.}
    assert with_htc(dict(htc_brief=1., htc_detailed=2.))['htc'] == 3


# Objective

def test_objective_is_the_weighted_sum():
    out = output()
    objective = Objective()
    parts = objective(**out)
    assert list(parts) == ['rpa', 'hna', 'vic', 'htc_brief', 'htc_detailed', 'htc', 'total']
    torch.testing.assert_close(parts['total'], sum(WEIGHTS[k] * parts[k] for k in objective.names))
    torch.testing.assert_close(parts['rpa'], rpa_loss(out['region'], out['region_text'], out['log_scale_rpa']))
    assert list(Objective(stage=1)(**out)) == ['global', 'total']
    doubled = Objective(dict(global_=2), htc=False)(**out)
    torch.testing.assert_close(doubled['global'], global_loss(out['image'], out['brief'], out['log_scale']))
    want = 2 * doubled['global'] + .1 * doubled['rpa'] + .5 * doubled['hna'] + .5 * doubled['vic']
    torch.testing.assert_close(doubled['total'], want)


def test_all_five_terms_of_eq_5():
    out = output()
    literal_form = Objective(dict(global_=7), literal_total=True)
    assert literal_form.names == tuple(WEIGHTS)
    parts = literal_form(**out)
    torch.testing.assert_close(parts['global'], parts['htc_brief'])
    torch.testing.assert_close(parts['total'], Objective()(**out)['total'] + 7 * parts['global'])


def test_every_row_of_table_6_has_a_global_term():
    rows = {'': 'global', 'rpa': 'global rpa', 'rpa vic': 'global rpa vic', 'rpa vic hna': 'global rpa hna vic',
            'rpa vic htc': 'rpa vic htc_brief htc_detailed', 'rpa vic hna htc': 'rpa hna vic htc_brief htc_detailed'}
    for on, names in rows.items():
        switches = {k: k in on.split() for k in ('rpa', 'hna', 'vic', 'htc')}
        assert ' '.join(Objective(**switches).names) == names
        assert ' '.join(active_parts(2, **switches)) == names


def test_temperatures_are_separate_or_shared():
    out = output()
    Objective()(**out)['total'].backward()
    assert all(out[k].grad != 0 for k in out if k.startswith('log_scale'))
    out = output()
    Objective(shared_scale=True)(**out)['total'].backward()
    assert out['log_scale'].grad != 0 and out['log_scale_rpa'].grad is None and out['log_scale_hna'].grad is None


@pytest.mark.parametrize('name', ['rpa', 'hna', 'vic'])
def test_every_region_term_reads_its_own_inputs(name):
    out = output()
    parts = Objective(agreement='contrast')(**out)
    rpa = rpa_loss(out['region'], out['region_text'], out['log_scale_rpa'], out['region_text_id'])
    hard = out['hna_text'], out['negative'], out['negative_owner']
    hna = hard_negative_loss(out['region'], *hard, out['log_scale_hna'])
    vic = contrastive_consistency(out['region'], out['crop'], out['log_scale_rpa'])
    torch.testing.assert_close(parts[name], dict(rpa=rpa, hna=hna, vic=vic)[name])


def test_hna_has_its_own_positive():
    out = output()
    own = Objective()(**out)
    without = Objective()(**{**out, 'hna_text': None})
    same = Objective()(**{**out, 'hna_text': out['region_text']})
    assert own['hna'] != without['hna'] and torch.equal(without['hna'], same['hna'])
    assert torch.equal(own['rpa'], without['rpa'])
    grads = torch.autograd.grad(own['hna'], (out['hna_text'], out['region_text']), allow_unused=True)
    assert grads[0] is not None and grads[1] is None


def test_texts_that_repeat_count_in_rpa():
    out = output() | dict(region_text_id=torch.tensor([0, 1, 0, 2, 1]))
    for d in DUPLICATES:
        want = info_nce(out['region'], out['region_text'], 2.5, out['region_text_id'], duplicates=d)
        torch.testing.assert_close(Objective(duplicates=d)(**out)['rpa'], want)


@pytest.mark.parametrize('setting, term', [
    (dict(divide='all'), 'hna'), (dict(max_scale=5.), 'rpa'), (dict(max_scale=5.), 'hna'),
    (dict(max_scale=5.), 'htc_brief'),
    (dict(duplicates='none'), 'rpa'), (dict(agreement='contrast'), 'vic')])
def test_settings_reach_their_term(setting, term):
    out = repeated_captions() | dict(region_text_id=torch.tensor([0, 1, 0, 2, 1]))
    assert Objective(**setting)(**out)[term] != Objective()(**out)[term]


def test_strips_of_the_objective():
    out = repeated_captions() | dict(region_text_id=torch.tensor([0, 1, 0, 2, 1]))
    plain, strips = (Objective(agreement='contrast', chunk=chunk)(**out) for chunk in (None, 2))
    for name in plain: torch.testing.assert_close(plain[name], strips[name])


def test_each_term_says_whether_it_is_gathered():
    for gather in (False, True):
        assert all(Objective(gather=gather).gathers(name) is gather for name in WEIGHTS)
        for own in (False, True):
            objective = Objective(gather=gather, rpa_gather=own)
            assert objective.gathers('rpa') is own and objective.nce_options('rpa')['gather'] is own
            assert all(objective.gathers(name) is gather for name in WEIGHTS if name != 'rpa')


def test_limit_of_the_log_scales_for_the_trainer():
    assert Objective().max_log_scale() == pytest.approx(math.log(100))
    assert Objective(max_scale=20.).max_log_scale() == pytest.approx(math.log(20))
    assert Objective(max_scale=None).max_log_scale() == math.inf


def test_repr_lists_weights_and_terms():
    assert repr(Objective(stage=1)) == 'Objective(stage 1: 1 global)'
    assert repr(Objective(dict(htc_brief=.5))) == (
        'Objective(stage 2: 0.1 rpa + 0.5 hna + 0.5 vic + 0.5 htc_brief + 1 htc_detailed)')


@pytest.mark.parametrize('empty', ['missing', 'zero rows'])
def test_a_batch_without_regions_trains_the_rest(empty):
    out = output(k=0, counts=())
    if empty == 'missing':
        out = {k: v for k, v in out.items() if not k.startswith(('region', 'crop', 'negative', 'hna'))}
    parts = Objective()(**out)
    assert all(v.isfinite() and v.requires_grad for v in parts.values())
    assert parts['rpa'] == parts['hna'] == parts['vic'] == 0
    parts['total'].backward()
    assert out['image'].grad.abs().sum() > 0
    assert all(out[k].grad is not None and out[k].grad.isfinite() for k in out if k.startswith('log_scale'))


def test_regions_without_negatives_cost_nothing():
    out = output() | dict(negative=None, negative_owner=None)
    loss = Objective()(**out)['hna']
    assert loss == 0 and loss.requires_grad
    assert loss == Objective()(**out | dict(negative=torch.zeros(0, 8)))['hna']


def test_outputs_are_taken_in_order():
    out = dict(image=torch.ones(2, 3), brief=torch.zeros(1), region=None)
    assert [x.shape for x in require_outputs(out, 'global', 'brief', 'image')] == [(1,), (2, 3)]
    rows = region_outputs(out, 'rpa', 'region', 'region_text')
    assert [x.shape for x in rows] == [(0, 3)] * 2
    with pytest.raises(GeoAlignError, match="The global term needs 'crop'.* switch global off"):
        require_outputs(out, 'global', 'image', 'crop')


INPUTS = {
    'global': 'image brief log_scale', 'htc_brief': 'image brief log_scale', 'htc_detailed': 'image detailed log_scale',
    'rpa': 'region_text log_scale_rpa', 'hna': 'log_scale_hna', 'vic': 'crop'}
MISSING = [(term, name) for term, names in INPUTS.items() for name in names.split()]


@pytest.mark.parametrize('term, name', MISSING)
def test_a_missing_input_is_named_with_its_term(term, name):
    with pytest.raises(GeoAlignError, match=f"The {term} term needs '{name}', .* switch {term} off."):
        TERMS[term](Objective(literal_total=True), {**output(), name: None})


@pytest.mark.parametrize('term', ['rpa', 'hna', 'vic'])
def test_a_batch_without_regions_needs_its_images(term):
    with pytest.raises(GeoAlignError, match=f"The {term} term needs 'image'"):
        TERMS[term](Objective(), {**output(), 'region': None, 'image': None})


def test_hna_without_a_positive_of_its_own_needs_the_text():
    with pytest.raises(GeoAlignError, match="The hna term needs 'region_text'"):
        TERMS['hna'](Objective(), {**output(), 'hna_text': None, 'region_text': None})


@pytest.mark.parametrize('stop, moved', [('none', (True, True)), ('crop', (True, False)), ('region', (False, True))])
@pytest.mark.parametrize('agreement', ['cosine', 'contrast'])
def test_vic_stops_the_gradient_of_one_side(agreement, stop, moved):
    out = output()
    parts = Objective(agreement=agreement, stop_gradient=stop)(**out)
    inputs = out['region'], out['crop'], out['log_scale_rpa']
    grads = torch.autograd.grad(parts['vic'], inputs, allow_unused=True)
    assert tuple(x is not None for x in grads) == (*moved, False)


# Settings and weights without effect

NO_EFFECT = {
    'global beside HTC': dict(weights=dict(global_=50)), 'global by its own name': dict(weights={'global': 2}),
    'weight without its term': dict(weights=dict(vic=2.), vic=False),
    'htc without HTC': dict(weights=dict(htc=2.), htc=False),
    'one of HTC without HTC': dict(weights=dict(htc_detailed=2.), htc=False),
    'htc beside both': dict(weights=dict(htc=2, htc_brief=1, htc_detailed=1)),
    'regions in Stage I': dict(stage=1, weights=dict(rpa=1.)), 'divide': dict(hna=False, divide='all'),
    'stop_gradient': dict(vic=False, stop_gradient='crop'), 'agreement': dict(vic=False, agreement='contrast'),
    'rpa_gather': dict(rpa=False, rpa_gather=False), 'literal_total without HTC': dict(htc=False, literal_total=True),
    'shared_scale': dict(rpa=False, hna=False, shared_scale=True), 'Stage I': dict(stage=1, divide='all')}


@pytest.mark.parametrize('name', NO_EFFECT)
def test_no_effect_is_refused(name):
    with pytest.raises(GeoAlignError, match='has no effect') as e: Objective(**NO_EFFECT[name])
    assert str(e.value).endswith('.') and '\n' not in str(e.value)


IDLE = 'has no effect on the terms that are on; remove it or set'


@pytest.mark.parametrize('kwargs, words', [
    (dict(weights=dict(global_=50)), f"Weight 'global' {IDLE} literal_total=True."),
    (dict(hna=False, divide='all'), f"Setting divide='all' {IDLE} hna=True."),
    (dict(rpa=False, hna=False, shared_scale=True), f'Setting shared_scale=True {IDLE} rpa=True.'),
    (dict(htc=False, literal_total=True), f'Setting literal_total=True {IDLE} htc=True.'),
    (dict(htc=False, weights=dict(htc_brief=3)), f"Weight 'htc_brief' {IDLE} htc=True."),
    (dict(htc=False, weights=dict(htc_detailed=3)), f"Weight 'htc_detailed' {IDLE} htc=True."),
    (dict(stage=1, weights=dict(rpa=3)), f"Weight 'rpa' {IDLE} stage=2."),
    (dict(stage=1, stop_gradient='crop'), f"Setting stop_gradient='crop' {IDLE} stage=2."),
    (dict(weights=dict(htc=2, htc_brief=1, htc_detailed=1)),
     "Weight 'htc' has no effect beside htc_brief and htc_detailed; remove one of the three.")])
def test_the_remedy_is_named(kwargs, words):
    with pytest.raises(GeoAlignError) as e: Objective(**kwargs)
    assert str(e.value) == words


@pytest.mark.parametrize('kwargs', [
    dict(weights=dict(global_=1)), dict(weights=dict(vic=0), vic=False), dict(hna=False, divide='with_negatives'),
    dict(weights=dict(WEIGHTS), htc=False), dict(stage=1, weights=dict(WEIGHTS)),
    dict(weights=dict(htc=2, htc_brief=1)), dict(weights=dict(htc=1), htc=False),
    dict(weights=dict(htc=1, htc_brief=2, htc_detailed=3)), dict(weights=dict(global_=50), literal_total=True),
    dict(vic=True, rpa=False, hna=False, agreement='contrast', shared_scale=True), dict(rpa=False, shared_scale=True),
    dict(rpa_gather=True), dict(stage=1, max_scale=None, chunk=4, duplicates='none', gather=True)])
def test_what_has_an_effect_or_asks_for_the_default_is_accepted(kwargs): Objective(**kwargs)


def test_rows_can_drop_what_is_unused():
    row_2 = active_parts(2, rpa=True, hna=False, vic=False, htc=False)
    assert unused_settings(['lr', *SETTING_TERMS], row_2) == ['divide', 'stop_gradient', 'agreement', 'literal_total']
    assert unused_weights(dict(global_=2, rpa=1, hna=1, htc=1, htc_brief=1), row_2) == ['hna', 'htc', 'htc_brief']
    assert unused_weights(dict(global_=2), ('rpa',)) == ['global_']
    assert unused_weights(dict(rpn=2), row_2) == []  # an unknown name is refused elsewhere
    assert unused_weights(dict(htc=1, htc_brief=1, htc_detailed=1), WEIGHTS) == ['htc']


BAD = {
    'missing': lambda: Objective()(**{**output(), 'detailed': None}),
    'missing crop': lambda: Objective()(**{**output(), 'crop': None}),
    **{f'objective {k}={v!r}': lambda k=k, v=v: Objective(**{k: v}) for k, v in (
        ('agreement', 'both'), ('stage', 3), ('stage', 0), ('duplicates', 'x'), ('chunk', 0), ('chunk', True),
        ('chunk', 2.), ('chunk', -1),
        ('rpa', 'yes'), ('hna', 'yes'), ('hna', 1), ('vic', 'yes'), ('htc', 'yes'),
        ('literal_total', 1), ('gather', 1), ('rpa_gather', 0), ('shared_scale', 'no'),
        ('divide', 'x'), ('stop_gradient', 'x'), ('max_scale', 0), ('max_scale', .9), ('max_scale', math.inf),
        ('max_scale', math.nan), ('max_scale', '9'), ('max_scale', True), ('weights', 3), ('weights', [1]))},
    **{f'weights {w}': lambda w=w: Objective(w) for w in (
        dict(rpa=-1), dict(rpn=1), dict(rpa='1'), dict(rpa=True), dict(rpa=math.nan), dict(rpa=math.inf),
        dict(rpa=None), {'global': 1, 'global_': 1}, {1: 2})}}


@pytest.mark.parametrize('name', BAD)
def test_mistakes_end_in_one_sentence(name):
    with pytest.raises(GeoAlignError) as e: BAD[name]()
    assert str(e.value).endswith(('.', '?')) and '\n' not in str(e.value)
    if name.startswith('objective'): assert name.split()[1].split('=')[0] in str(e.value)
    if name.startswith('weights'): assert 'weight' in str(e.value).lower()


def test_limits_that_are_allowed():
    for limit in (1, 1., 100, None): assert Objective(max_scale=limit).max_scale == limit
    assert named_weights(dict(rpa=0, hna=3)) == dict(rpa=0., hna=3.) and named_weights(None) == {}


def test_objective_signature_is_the_contract():
    names = list(inspect.signature(Objective).parameters)
    assert names[:8] == ['weights', 'stage', 'rpa', 'hna', 'vic', 'htc', 'duplicates', 'gather']


def test_defaults_are_those_of_the_page():
    defaults = dict(
        weights=None, stage=2, rpa=True, hna=True, vic=True, htc=True, duplicates='mask', gather=False,
        shared_scale=False, divide='with_negatives', stop_gradient='none', agreement='cosine', chunk=None,
        rpa_gather=None, literal_total=False, max_scale=100.)
    assert {name: p.default for name, p in inspect.signature(Objective).parameters.items()} == defaults
    assert WEIGHTS == {'global': 1., 'rpa': .1, 'hna': .5, 'vic': .5, 'htc_brief': 1., 'htc_detailed': 1.}
    assert Objective().nce_options('rpa') == dict(duplicates='mask', gather=False, chunk=None, max_scale=100.)
    assert Objective(chunk=1, duplicates='none').nce_options('vic') == dict(
        duplicates='none', gather=False, chunk=1, max_scale=100.)
