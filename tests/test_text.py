"""Text: ids, stretching and sliced encoding against open_clip's own results (random weights)."""
import copy
import itertools
import json
import pickle
import warnings
from types import SimpleNamespace

import pytest
import small_towers
import tokenizers
import torch
from hypothesis import given, settings, strategies as st
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.tokenizer import SimpleTokenizer

from geoalignclip_nb.core import GeoAlignError
from geoalignclip_nb.text import (PASS_PRICE, Tokenizer, WordPieceTokenizer, encode_tokens, fold_positions, length_groups, meaningless_pieces,
                                  stretch_positions, stretch_text, text_blocks, text_lengths, text_tower, text_width, token_ids, token_table)

THEIRS = SimpleTokenizer()


def tiny(cls=CLIP, **text):
    torch.manual_seed(0)
    return cls(32, dict(image_size=32, layers=1, width=32, patch_size=16, head_width=32), dict(context_length=77, width=32, heads=2, layers=2, **text)).eval()


@pytest.fixture(scope='module', params=[CLIP, CustomTextCLIP], ids=['CLIP', 'CustomTextCLIP'])
def pair(request):
    clip = tiny(request.param)
    return clip, stretch_text(copy.deepcopy(clip))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=300), max_size=4))
def test_any_text_becomes_ids(texts):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        ids = Tokenizer(32)(texts)
    assert ids.shape[0] == len(texts) and 2 <= ids.shape[1] <= 32 and ids.dtype == torch.long
    for row in ids: assert (row == THEIRS.eot_token_id).sum() == 1 and row[0] == THEIRS.sot_token_id


@pytest.mark.parametrize('text', ['white plane', 'A  harbour; 12 ships!', 'über 🛰 ' * 40, ''])
def test_ids_are_open_clips(text):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        ids = Tokenizer(77)([text])
    whole = THEIRS([text], 77)
    assert torch.equal(ids, whole[:, :ids.shape[1]]) and not whole[:, ids.shape[1]:].any()


def test_ten_thousand_characters_are_cut_and_counted():
    tokenizer = Tokenizer(248)
    with pytest.warns(UserWarning, match='248 tokens'): ids = tokenizer(['plane ' * 1700])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        tokenizer(['plane ' * 1700, 'short'])
    assert ids.shape == (1, 248) and ids[0, -1] == THEIRS.eot_token_id and tokenizer.truncated == 2


@pytest.mark.parametrize('context', [8, 77])
@pytest.mark.parametrize('more, cut', [(0, 0), (1, 1), (-1, 0)])
def test_a_text_that_just_fits_is_not_cut(context, more, cut):
    "Start and end mark take two places"
    tokenizer, words = Tokenizer(context), context - 2 + more
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        ids = tokenizer(['plane ' * words])
    assert tokenizer.truncated == len(told) == cut and ids.shape == (1, min(words + 2, context))
    assert torch.equal(ids, THEIRS(['plane ' * words], context)[:, :ids.shape[1]])


def test_an_end_mark_in_a_text_does_not_end_it(): assert len(token_ids('a <end_of_text> b')) == 2


@pytest.mark.parametrize('bad', [None, 3, b'plane'])
def test_not_a_text(bad):
    with pytest.raises(GeoAlignError, match='must be a string'): Tokenizer()([bad])


@pytest.mark.parametrize('n, keep, ratio', [(77, 20, 4), (64, 20, 4), (9, 3, 2), (5, 0, 3)])
def test_stretching_is_the_table_of_the_definition(n, keep, ratio):
    p = torch.randn(n, 6, dtype=torch.float32)
    q = stretch_positions(p, keep, ratio)
    assert q.shape == (keep + ratio * (n - keep), 6) and torch.equal(q[:keep], p[:keep])
    for i in range(keep, n):
        for k in range(ratio):
            want = ((ratio - k) * p[i] + k * p[i + 1]) / ratio if i + 1 < n else p[i] + k * (p[i] - p[i - 1]) / ratio
            torch.testing.assert_close(q[keep + ratio * (i - keep) + k], want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('keep', [-1, 8, 9])
def test_too_few_rows_to_stretch(keep):
    with pytest.raises(GeoAlignError, match=f'keep={keep} leaves fewer than two of 9 rows'): stretch_positions(torch.randn(9, 4), keep)


def test_the_last_row_that_can_be_kept(): assert stretch_positions(torch.randn(9, 4), 7).shape == (7 + 4 * 2, 4)


@pytest.mark.parametrize('wanted', [True, False])
def test_stretching_keeps_whether_a_gradient_is_wanted(wanted):
    clip = tiny()
    clip.positional_embedding.requires_grad_(wanted)
    assert stretch_text(clip).positional_embedding.requires_grad == wanted


def test_a_tower_of_78_rows_is_not_stretched():
    torch.manual_seed(0)
    clip = CLIP(32, dict(image_size=32, layers=1, width=32, patch_size=16, head_width=32), dict(context_length=78, width=32, heads=2, layers=1))
    with pytest.raises(GeoAlignError, match='78 tokens already'): stretch_text(clip)


def test_half_precision_tables_keep_their_type(): assert stretch_positions(torch.randn(77, 4).half()).dtype == torch.float16


@pytest.mark.parametrize('words', [1, 5, 18])
def test_short_texts_keep_every_bit(pair, words):
    before, after = pair
    ids = Tokenizer(77)(['plane ' * words])
    assert ids.shape[1] <= 20 and torch.equal(encode_tokens(before, ids), encode_tokens(after, ids))


def test_sliced_equals_full_length(pair):
    texts = ['white plane', 'a grey roundabout with four exits ' * 6, '']
    for clip in pair:
        whole = THEIRS(texts, clip.context_length)
        torch.testing.assert_close(encode_tokens(clip, Tokenizer(clip.context_length)(texts)), clip.encode_text(whole), atol=1e-5, rtol=0)


def test_pooling_at_the_end_mark_is_not_at_the_largest_id():
    "Pooling 'eos' reads the position of one id, which need not be the largest"
    clip = tiny(CustomTextCLIP, pool_type='eos', eos_id=7)
    ids = torch.tensor([[3, 9000, 5, 7, 0, 0], [3, 4, 7, 0, 0, 0], [3, 2, 8000, 6, 9, 7]])
    whole = torch.nn.functional.pad(ids, (0, 77 - ids.shape[1]))
    torch.testing.assert_close(encode_tokens(clip, ids), clip.encode_text(whole), atol=1e-5, rtol=0)


def test_padding_with_the_end_mark_is_the_same(pair):
    ids = Tokenizer(77)(['white plane', 'a storage tank beside the road'])
    theirs = torch.where(ids == 0, torch.tensor(THEIRS.eot_token_id), ids)
    torch.testing.assert_close(encode_tokens(pair[0], ids), encode_tokens(pair[0], theirs), atol=1e-6, rtol=0)


def test_stretched_twice_is_refused(pair):
    with pytest.raises(GeoAlignError, match='248 tokens already'): stretch_text(pair[1])


def test_text_beyond_the_table_is_refused(pair):
    ids = torch.full((1, 100), 5); ids[0, -1] = THEIRS.eot_token_id
    with pytest.raises(GeoAlignError, match='more than the 77'): encode_tokens(pair[0], ids)


def test_checkpointing_and_bfloat16(pair):
    clip, ids = copy.deepcopy(pair[1]).train(), Tokenizer()(['white plane', 'a car'])
    plain = encode_tokens(clip, ids)
    clip.set_grad_checkpointing()
    assert torch.equal(encode_tokens(clip, ids), plain)
    with torch.autocast('cpu', torch.bfloat16): half = encode_tokens(clip, ids)
    half.float().sum().backward()
    assert torch.nn.functional.cosine_similarity(half.float(), plain).min() > .99


def test_defaults():
    table = torch.randn(77, 4)
    assert Tokenizer().context_length == 248 and torch.equal(stretch_positions(table), stretch_positions(table, 20, 4))
    assert len(stretch_text(tiny()).positional_embedding) == 248


def test_a_string_is_one_text_and_no_text_is_no_row():
    assert torch.equal(Tokenizer()('white plane'), Tokenizer()(['white plane'])) and Tokenizer()([]).shape == (0, 2)


def test_the_warning_names_the_line_of_the_caller():
    with pytest.warns(UserWarning) as told: Tokenizer(8)(['plane ' * 9])
    assert told[0].filename == __file__


def test_the_table_stays_on_its_device():
    assert stretch_positions(torch.empty(77, 4, device='meta')).device.type == 'meta'
    assert stretch_text(tiny().to('meta')).attn_mask.device.type == 'meta'


@pytest.mark.parametrize('cls', [CLIP, CustomTextCLIP])
def test_a_stretched_model_has_the_same_names_and_a_causal_mask(cls):
    clip = tiny(cls)
    names = list(clip.state_dict())
    tower = text_tower(stretch_text(clip))
    assert list(clip.state_dict()) == names and tower.num_pos == tower.context_length == clip.context_length == 248
    assert torch.equal(tower.attn_mask, torch.full((248, 248), float('-inf')).triu(1))


def widths(clip, ids):
    "(lengths of the sequences that the transformer reads, text vectors)"
    seen = []
    hook = text_tower(clip).transformer.register_forward_pre_hook(lambda m, args: seen.append(args[0].shape[1]))
    try: return seen, encode_tokens(clip, ids)
    finally: hook.remove()


@pytest.mark.parametrize('cls', [CLIP, CustomTextCLIP])
@pytest.mark.parametrize('pool', [dict(), dict(pool_type='eos', eos_id=7)], ids=['argmax', 'eos'])
def test_only_the_longest_text_is_read(cls, pool):
    "Ids may be padded; what stands behind the longest end mark is not computed"
    clip, end = tiny(cls, **pool), 7 if pool else THEIRS.eot_token_id
    ids = torch.tensor([[3, 900, 5, end, 0, 0, 0, 0], [3, 4, end, 0, 0, 0, 0, 0], [3, 2, 800, 6, 9, end, 0, 0]])
    seen, vectors = widths(clip, ids)
    assert seen == [6]
    torch.testing.assert_close(vectors, clip.encode_text(torch.nn.functional.pad(ids, (0, 69))), atol=1e-5, rtol=0)
    assert encode_tokens(clip, ids[:0]).shape == (0, 32)


@pytest.mark.parametrize('text', [dict(embed_cls=True), dict(no_causal_mask=True, pool_type='last'), dict(no_causal_mask=True), dict(pool_type='last'), dict(pool_type='first')],
                         ids=['a token of its own', 'last without mask', 'no mask', 'last', 'first'])
def test_towers_that_read_all_places_get_all_of_them(text):
    clip = tiny(CustomTextCLIP, **text)
    ids = Tokenizer(77)(['white plane', 'a storage tank beside the road'])
    seen, vectors = widths(clip, ids)
    assert seen[0] >= 77
    torch.testing.assert_close(vectors, clip.encode_text(torch.nn.functional.pad(ids, (0, 77 - ids.shape[1]))), atol=1e-5, rtol=0)


def test_a_tower_that_names_no_pooling_is_read_at_the_largest_id():
    "Such as the long tower of FG-CLIP, which is put together from parts"
    clip, ids = tiny(), Tokenizer(77)(['white plane', 'a storage tank'])
    parts = {n: getattr(clip, n) for n in ('positional_embedding', 'attn_mask', 'context_length', 'transformer', 'token_embedding', 'ln_final', 'text_projection')}
    assert torch.equal(encode_tokens(SimpleNamespace(**parts), ids), encode_tokens(clip, ids))


@pytest.mark.parametrize('proj', ['none', 'linear'])
def test_other_projections(proj):
    clip = tiny(CustomTextCLIP, **(dict(proj_type='none') if proj == 'none' else dict(proj_bias=True)))
    ids = Tokenizer(77)(['white plane', 'a storage tank'])
    torch.testing.assert_close(encode_tokens(clip, ids), clip.encode_text(torch.nn.functional.pad(ids, (0, 77 - ids.shape[1]))), atol=1e-5, rtol=0)


def test_a_text_of_exactly_the_table_is_encoded(pair):
    ids = Tokenizer(77)(['plane ' * 75])
    assert ids.shape == (1, 77) and encode_tokens(pair[0], ids).shape == (1, 32)


def test_towers_of_other_libraries_are_refused():
    with pytest.raises(GeoAlignError, match='Linear is not one of the text towers'): text_tower(torch.nn.Linear(2, 2))


# ---- groups of similar length --------------------------------------------------------------------------------------------

def cost(groups, lengths, pass_cost=0): return sum(pass_cost + int(lengths[g].max()) * len(g) for g in groups)


def every_cut(lengths, most):
    "All ways to cut the sorted texts into at most `most` groups"
    order = lengths.argsort(stable=True)
    for k in range(min(most, len(order))):
        for cut in itertools.combinations(range(1, len(order)), k): yield order.tensor_split(cut)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=8), st.integers(1, 5), st.sampled_from([0, 7, 60, 1000]))
def test_groups_cost_least(lengths, most, price):
    lengths = torch.tensor(lengths)
    groups = length_groups(lengths, most, price)
    assert 1 <= len(groups) <= most and sorted(torch.cat(groups).tolist()) == list(range(len(lengths)))
    assert cost(groups, lengths, price) == min(cost(g, lengths, price) for g in every_cut(lengths, most))
    for short, long in zip(groups, groups[1:]): assert lengths[short].max() < lengths[long].min()


def test_texts_of_one_length_keep_their_order():
    lengths = torch.tensor([9, 5] * 200)
    assert [g.tolist() for g in length_groups(lengths)] == [list(range(1, 400, 2)), list(range(0, 400, 2))]


def test_defaults_of_groups():
    lengths = torch.tensor([1, 10, 100, 1000, 10_000, 100_000, 10**6, 10**7])
    assert len(length_groups(lengths)) == 6 and len(length_groups(lengths[:3])) == 3
    assert PASS_PRICE == dict(cuda=4096) and len(length_groups(torch.tensor([5, 70, 6]), pass_cost=PASS_PRICE['cuda'])) == 1


@pytest.mark.parametrize('keep', [0, 3, 248])
def test_fold_keeps_the_first_rows(keep):
    a, b = torch.zeros(248, 3), torch.ones(248, 3)
    assert fold_positions(a, b, keep).sum(1).tolist() == [0] * keep + [3] * (248 - keep)
    with pytest.raises(GeoAlignError, match='do not fold'): fold_positions(a, b[:77])


def test_fold():
    a, b = torch.zeros(248, 3), torch.ones(248, 3)
    assert fold_positions(a, b).sum(1).tolist() == [0] * 20 + [3] * 228


# ---- word pieces ---------------------------------------------------------------------------------------------------------

# the pieces of BERT's English vocabulary (30,522 entries), copied from its tokenizer
SPELLED = {
    'xqzzt': 'x q zz t', 'asdfgh': 'as df gh', 'qwzx': 'q w z x', 'qzxj': 'q z x j', 'fghjk': 'f gh jk', 'zxcvb': 'z x c vb',
    'jkljkl': 'j k l jk l', 'sdfsdf': 'sd fs df'}
NOUNS = {
    'helipad': 'he lip ad', 'oiltank': 'oil tan k', 'pylon': 'p yl on', 'khaki': 'k hak i', 'zigzag': 'z ig za g',
    'quokka': 'quo kka', 'psaltery': 'ps al tery'}
ONE_PIECE = ('airplane roundabout harbor pier dock ship runway hangar terminal viaduct interchange greenhouse farmland meadow '
             'orchard vineyard mangrove reservoir turbine chimney stadium baseball tennis railway locomotive freight quarry dam').split()


@pytest.mark.parametrize('word', SPELLED)
def test_strings_of_letters_have_no_meaning(word): assert meaningless_pieces(SPELLED[word].split())


@pytest.mark.parametrize('word', [*NOUNS, *ONE_PIECE])
def test_nouns_have_a_meaning(word): assert not meaningless_pieces(NOUNS.get(word, word).split())


@pytest.fixture(scope='module')
def pieces(): return WordPieceTokenizer(small_towers.tokenizer_json(), 16)


def test_word_pieces_are_those_of_the_library(pieces):
    texts = ['White  plane, beside the BUILDING!', 'xqzzt', '', '🛰 \ud800 12']
    theirs = tokenizers.Tokenizer.from_str(pieces.content)
    ids = pieces(texts)
    for row, text in zip(ids, texts):
        want = theirs.encode(text.encode('utf-8', 'replace').decode()).ids
        assert row.tolist() == want + [0] * (ids.shape[1] - len(want))


@pytest.mark.parametrize('words, cut', [(14, 0), (15, 1)])
def test_word_pieces_that_just_fit_are_not_cut(words, cut):
    tokenizer = WordPieceTokenizer(small_towers.tokenizer_json(), 16)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        ids = tokenizer(['a ' * words])
        tokenizer(['a ' * words])
    assert (len(told), tokenizer.truncated) == (cut, 2 * cut) and ids.shape == (1, 16) and ids[0, -1] == 3


def test_word_pieces_survive_a_process(pieces):
    again = pickle.loads(pickle.dumps(pieces))
    assert torch.equal(again(['white plane']), pieces(['white plane'])) and again([]).shape == (0, 2)


@pytest.mark.parametrize('content', ['', '{}', '[1]', '{"model": {"type": "WordPiece"}}'])
def test_a_broken_tokenizer_is_one_sentence(content):
    with pytest.raises(GeoAlignError, match='copy or download it again'): WordPieceTokenizer(content)


def test_other_kinds_of_tokenizers_are_refused():
    with pytest.raises(GeoAlignError, match='holds a BPE tokenizer'): WordPieceTokenizer(tokenizers.Tokenizer(tokenizers.models.BPE()).to_str())


@pytest.mark.parametrize('word', ['12345', '...', '12.5', '(3)', 'plane', 'x-ray', 'u.s.a', 'b-52'])
def test_numbers_marks_and_abbreviations_have_a_meaning(pieces, word): assert not pieces.meaningless(word)


@pytest.mark.parametrize('word', ['東', 'плот', '🛰'])
def test_signs_outside_the_vocabulary_have_none(pieces, word): assert pieces.meaningless(word)


# ---- a text tower of Hugging Face ----------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def bert(): return small_towers.small_model()


def test_a_text_tower_of_hugging_face_reads_the_longest_text_only(bert):
    ids = bert.tokenize(['white plane', 'two storage tanks and a grey roundabout'])
    wide = torch.nn.functional.pad(ids, (0, 30))
    with torch.no_grad():
        whole, cut = bert.clip.text(wide), encode_tokens(bert.clip, wide)
        alone = encode_tokens(bert.clip, ids[:1])
    torch.testing.assert_close(cut, whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(alone, whole[:1], atol=1e-5, rtol=0)
    assert text_lengths(bert.clip, wide).tolist() == (ids != 0).sum(1).tolist() and encode_tokens(bert.clip, ids[:0]).shape == (0, 32)
    with pytest.raises(GeoAlignError, match='more than the 48'): encode_tokens(bert.clip, torch.ones(1, 49, dtype=torch.long))


def test_both_towers_have_a_token_table_and_a_width(bert, pair):
    assert token_table(bert.clip).num_embeddings == len(json.loads(bert.tokenizer.content)['model']['vocab'])
    assert token_table(pair[0]).num_embeddings == 49408 and text_width(bert.clip) == text_width(pair[0]) == 32
    assert len(text_blocks(bert.clip)) == len(text_blocks(pair[0])) == 2


def test_lengths_of_clips_own_texts(pair):
    assert text_lengths(pair[0], Tokenizer(77)(['white plane', 'a storage tank beside the road'])).tolist() == [4, 8]
