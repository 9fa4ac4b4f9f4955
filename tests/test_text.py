"""Text: ids, stretching and sliced encoding against open_clip's own results (random weights)."""
import copy
import warnings

import pytest
import torch
from hypothesis import given, settings, strategies as st
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.tokenizer import SimpleTokenizer

from geoalignclip_nb.core import GeoAlignError
from geoalignclip_nb.text import Tokenizer, encode_tokens, fold_positions, stretch_positions, stretch_text, token_ids

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


def test_fold():
    a, b = torch.zeros(248, 3), torch.ones(248, 3)
    assert fold_positions(a, b).sum(1).tolist() == [0] * 20 + [3] * 228
