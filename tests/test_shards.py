"Shards with faults made on purpose: what is read, what is counted, what stops a run, and who reads what"
import dataclasses, io, json, os, random, tarfile, threading

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from geoalignclip_nb.core import GeoAlignError, Region, Sample
from geoalignclip_nb.data import records as R, shards as S
from geoalignclip_nb.data.loader import ImageCache, Loader, LoaderSettings, make_item, mentions_direction
from geoalignclip_nb.data.stream import ShardImages, epoch_steps, shard_order, split_epoch
from geoalignclip_nb.text import Tokenizer


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    "A cache folder of its own for every test"
    folder = tmp_path_factory.mktemp('cache')
    monkeypatch.setenv('GEOALIGN_CACHE', str(folder))
    return folder


def picture(i: int, size=(40, 30)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(i).integers(0, 255, (size[1] // 10, size[0] // 10, 3), dtype=np.uint8)).resize(size, Image.NEAREST)

def samples(n: int, start: int = 0) -> list:
    return [Sample(picture(i), brief=f'field {i}', detailed=f'A field with the number {i}.', captions=[f'field {i}', f'the field of number {i}'], id=f'{i:07d}', source='rsteller',
                   source_image_id=f'm_{i}', regions=[Region((.1, .2, .5, .6), f'barn {i}', f'A red barn {i}.', [(f'shed {i}', 'category'), (f'blue barn {i}', 'attribute')])])
            for i in range(start, start + n)]

def jpeg(i: int = 0) -> bytes:
    picture(i).save(out := io.BytesIO(), 'JPEG'); return out.getvalue()

def tar(path, members) -> str:
    "A shard with exactly these (name, bytes)"
    with tarfile.open(path, 'w') as t:
        for name, data in members:
            info = tarfile.TarInfo(name); info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return str(path)

def record(*texts, **extra) -> bytes: return json.dumps(dict(metadata=dict(patch_id=1, image_name='m'), annotations=[dict(task=1, text=t) for t in texts], **extra)).encode()

def pairs(n: int, start: int = 0) -> list: return [m for i in range(start, start + n) for m in ((f'{i}.jpg', jpeg(i)), (f'{i}.json', record(f'field {i}')))]

def opened(where, side: int = 16, max_bad: float = 1., parse=R.rsteller_sample, **k): return ShardImages(S.Shards(where, parse), side, max_bad=max_bad, **k)


# the two releases and the drafts before them

@pytest.mark.parametrize('annotator', ['mistralai/some-model', ''])
def test_both_releases(tmp_path, annotator):
    made = samples(7)
    paths = S.write_shards(made, tmp_path, 3, annotator=annotator)
    with tarfile.open(paths[0]) as t:
        assert t.getnames() == ['0000000.jpg', '0000000.json', '0000001.jpg', '0000001.json', '0000002.jpg', '0000002.json']
        notes = json.load(t.extractfile('0000000.json'))['annotations']
    assert [set(n) for n in notes] == [{'task', 'text'} | ({'annotator'} if annotator else set())] * 2
    back = S.open_shards(f'rsteller:{tmp_path}')
    assert [(s.id, s.captions, s.source_image_id) for s in back] == [(s.id, s.captions, s.source_image_id) for s in made]
    assert back[0].brief == 'field 0' and back.sizes.tolist() == [3, 3, 1]

@pytest.mark.parametrize('texts', [['a'], ['a', 'b', 'c', 'd', 'e'], ['a', 'a']])
def test_any_number_of_captions(tmp_path, texts):
    assert S.Shards(tar(tmp_path/'a.tar', [('1.jpg', jpeg()), ('1.json', record(*texts))]))[0].captions == texts

def test_unknown_keys_and_odd_values_are_tolerated(tmp_path):
    odd = json.dumps(dict(annotations=[dict(task=9, text=' a \n field ', score=None, annotator=['x']), dict(task=1), dict(text=5), 'plain words', None], more={'x': 1}, metadata=None)).encode()
    s = S.Shards(tar(tmp_path/'a.tar', [('1.jpg', jpeg()), ('1.json', odd), ('1.cls', b'3'), ('1.npy', b'')]))[0]
    assert s.captions == ['a field', 'plain words'] and s.source_image_id == ''

def test_txt_has_one_caption_per_line(tmp_path):
    r = S.Shards(tar(tmp_path/'Patches0000.tar', [('1.jpg', jpeg()), ('1.txt', 'a field\n\nthe fiéld\r\n'.encode()),
                                                  ('2.jpg', jpeg()), ('2.json', record()), ('2.txt', b'a barn'), ('3.jpg', jpeg()), ('3.json', record('json wins')), ('3.txt', b'not this')]))
    assert [s.captions for s in r] == [['a field', 'the fiéld'], ['a barn'], ['json wins']]

def test_names_in_folders_and_long_names(tmp_path):
    long = 'x' * 180
    r = S.Shards(tar(tmp_path/'a.tar', [('./a/1.JPG', jpeg()), ('./a/1.json', record('one')), ('b/1.png', jpeg()), ('b/1.json', record('two')), (f'{long}.jpeg', jpeg()), (f'{long}.json', record('three')),
                                        ('ü.webp', jpeg()), ('ü.json', record('four'))]))
    assert [s.id for s in r] == ['a/1', 'b/1', long, 'ü'] and [s.brief for s in r] == ['one', 'two', 'three', 'four']

def test_shards_are_found_sorted_and_never_counted(tmp_path):
    (tmp_path/'JPG').mkdir()
    for n in (261, 0, 7): tar(tmp_path/f'JPG/train-{n:06d}.tar', pairs(1, n))
    (tmp_path/'README.md').write_text('240 shards'); (tmp_path/'JPG/.train-000001.9.tmp.tar').write_bytes(b'')
    names = [f'train-{n:06d}.tar' for n in (0, 7, 261)]
    for where in (tmp_path, f'{tmp_path}/JPG/*.tar', f'{tmp_path}/**/*', [tmp_path/'JPG'/n for n in reversed(names)]):
        assert [os.path.basename(f) for f in S.find_files(where)] == names
    with pytest.raises(GeoAlignError, match='glob'): S.find_files(f'{tmp_path}/train-{{000000..000239}}.tar')
    with pytest.raises(GeoAlignError, match='No file'): S.find_files(tmp_path/'nowhere')

def test_windowed_reads_only(tmp_path, monkeypatch):
    "One sample needs its own bytes, not the shard's"
    reader, sizes = S.Shards(tar(tmp_path/'a.tar', pairs(50))), []
    true = S.Member.read
    monkeypatch.setattr(S.Member, 'read', lambda self: sizes.append(self.size) or true(self))
    ShardImages(reader, 8).image(30)
    assert len(sizes) == 2 and sum(sizes) < os.path.getsize(tmp_path/'a.tar') / 20


# RSFG and FineHARD

def rsfg(**extra) -> dict: return dict(f_path='a.jpg', caption='A long caption.', short_caption='short') | extra

def box(**extra) -> dict: return dict(bbox=[.1, .2, .3, .4, .9], short_expr='barn', long_expr='A red barn.') | extra

def test_rsfg_comes_back_as_it_was_written(tmp_path):
    made = samples(5)
    S.write_shards(made, tmp_path, 2, kind='rsfg')
    for s, b in zip(made, S.open_shards(f'rsfg:{tmp_path}')):
        assert dataclasses.replace(b, image=None) == dataclasses.replace(s, image=None, captions=[])

@pytest.mark.parametrize('suffix', ['json', 'jsonl'])
def test_rsfg_records_beside_pictures(tmp_path, suffix):
    (tmp_path/'p').mkdir(); picture(1).save(tmp_path/'p/a.png'); picture(2).save(tmp_path/'p/b.png')
    rows = [rsfg(f_path='p/a.png', bbox_info=[box()], image_id=17), rsfg(f_path='p/b.png', short_caption='')]
    (tmp_path/f'r.{suffix}').write_text(json.dumps(rows) if suffix == 'json' else '\n\n'.join(map(json.dumps, rows)))
    p = ShardImages(S.open_shards(f'rsfg:{tmp_path}'), 16)
    assert [s.brief for s in p.samples] == ['short', 'A long caption.'] and p.samples[0].id == '17' and p.samples[0].source_image_id == 'p/a.png'
    assert p.image(1) == ImageCache([Sample(str(tmp_path/'p/b.png'))], 16).image(0) and p.skipped == []

def test_rsfg_faults_are_counted_one_by_one(tmp_path):
    picture(1).save(tmp_path/'a.jpg'); (tmp_path/'broken.jpg').write_bytes(jpeg()[:200]); (tmp_path.parent/'outside.jpg').write_bytes(jpeg())
    rows = [rsfg(), rsfg(f_path='gone.jpg'), rsfg(f_path='broken.jpg'), rsfg(f_path='../outside.jpg'), rsfg(caption='', short_caption=None), 5, rsfg(caption='last')]
    (tmp_path/'r.jsonl').write_text('\n'.join(map(json.dumps, rows)) + '\n{"f_path": "a.j')
    p = ShardImages(S.Records(tmp_path/'r.jsonl'), 16, max_bad=1.)
    assert [s.detailed for s in p.samples] == ['A long caption.'] + ['last'] * 6 + ['A long caption.']
    assert p.skipped == [('r.jsonl:2', 'missing picture'), ('r.jsonl:3', 'corrupt picture'), ('r.jsonl:4', 'missing picture'), ('r.jsonl:5', 'no caption'), ('r.jsonl:6', 'broken JSON'), ('r.jsonl:8', 'broken JSON')]

def test_a_file_that_is_no_list_is_refused(tmp_path):
    (tmp_path/'a.json').write_text('{}')
    with pytest.raises(GeoAlignError, match='a.json is not a list of records'): S.Records(tmp_path)
    (tmp_path/'a.json').write_text('[{')
    with pytest.raises(GeoAlignError, match='a.json is not JSON'): S.Records(tmp_path)

@pytest.mark.parametrize('corners', [[.5, .2, .3, .4], [.1, .2, .1, .4], [.1, .2, .3, .2], [1.2, .1, 1.5, .2], [100, 100, 200, 200], [0, 0, 200, 200], [float('nan'), 0, 1, 1], [.1, .2, .3], [], None, 'box', ['a'] * 4])
def test_bad_boxes_are_dropped_and_counted(corners):
    s, dropped = R.rsfg_sample(rsfg(bbox_info=[box(), box(bbox=corners)]))
    assert (len(s.regions), dropped) == (1, 1)

def test_boxes_without_words_and_odd_boxes():
    s, dropped = R.rsfg_sample(rsfg(bbox_info=[box(short_expr=None, long_expr=''), 'x', box(long_expr=''), box(bbox=[-.1, .2, 1.3, .4])]))
    assert dropped == 2 and s.regions[0].text == '' and s.regions[1].box == (0., .2, 1., .4)
    assert R.rsfg_sample(rsfg(bbox_info=None))[0].regions == []

def test_any_number_of_boxes_and_negatives():
    s, _ = R.rsfg_sample(rsfg(bbox_info=[box(short_expr_negs={str(i): f'shed {i}' for i in range(k)}) for k in (0, 1, 10, 37)] * 5))
    assert [len(r.negatives) for r in s.regions] == [0, 1, 10, 37] * 5

@pytest.mark.parametrize('value, expected', [
    (dict(short_expr_negs={'0': 'a', '1': 'b'}), [('a', ''), ('b', '')]),
    (dict(short_expr_negs=['a', ' ', None, 'b']), [('a', ''), ('b', '')]),
    (dict(short_expr_negs={'0': 'a', '1': 'b'}, short_expr_neg_types={'1': 'category'}), [('a', ''), ('b', 'category')]),
    (dict(short_expr_negs=['a', 'b'], short_expr_neg_types=['attribute']), [('a', 'attribute'), ('b', '')]),
    (dict(short_expr_negs=[dict(text='a', type='orientation'), dict(text='b', kind='category')]), [('a', 'orientation'), ('b', 'category')]),
    (dict(short_expr_negs=dict(attribute=['a', 'b'], category='c')), [('a', 'attribute'), ('b', 'attribute'), ('c', 'category')]),
    (dict(short_expr_negs={'0': 'a'}, flag_short_neg=0), []), (dict(short_expr_negs=None), []), (dict(short_expr_negs=7), []), ({}, [])])
def test_shapes_of_negatives(value, expected): assert R.parse_region(box(**value)).negatives == expected

def test_dropped_boxes_are_counted_once_per_sample(tmp_path):
    p = opened(tar(tmp_path/'a.tar', [('1.jpg', jpeg()), ('1.json', json.dumps(rsfg(bbox_info=[box(), box(bbox=[1, 0, 0, 1])])).encode())]), parse=R.rsfg_sample)
    for _ in range(3): p.recent.clear(); p.image(0)
    assert p.dropped == 1 and '1 boxes without area or words dropped' in p.report()


# faults inside shards

def test_corrupt_picture_gives_its_place_to_the_next(tmp_path):
    members = pairs(5)
    members[2] = ('1.jpg', members[2][1][:300]); members[8] = ('4.jpg', b'no picture')
    p = opened(tar(tmp_path/'a.tar', members))
    assert [s.id for s in p.samples] == ['0', '2', '2', '3', '0'] and len(p) == 5
    assert p.image(1) == p.image(2) and p.image(4) == p.image(0)
    assert p.skipped == [('a.tar:1', 'corrupt picture'), ('a.tar:4', 'corrupt picture')]
    assert p.report() == '5 of 5 samples seen; left out: 2 corrupt picture (a.tar:1, a.tar:4).'

@pytest.mark.parametrize('data, reason', [(b'{"annotations": [', 'broken JSON'), (b'\xff\xfe', 'broken JSON'), (b'[' * 100_000, 'broken JSON'), (b'[]', 'broken JSON'), (b'', 'broken JSON'), (b'{}', 'no caption'),
                                          (record(), 'no caption'), (record('', ' \n'), 'no caption')])
def test_broken_json_and_no_caption(tmp_path, data, reason):
    p = opened(tar(tmp_path/'a.tar', [('0.jpg', jpeg()), ('0.json', data)] + pairs(1, 1)))
    assert p.samples[0].id == '1' and p.skipped == [('a.tar:0', reason)]

def test_missing_halves_are_known_before_reading(tmp_path):
    members = [m for m in pairs(5) if m[0] not in ('1.jpg', '3.json')]
    p = opened(tar(tmp_path/'a.tar', members))
    assert len(p) == 3 and p.skipped == [('a.tar:1', 'missing picture'), ('a.tar:3', 'missing text')]
    assert '1 missing picture, 1 missing text (a.tar:1, a.tar:3)' in p.report()

@given(at=st.floats(.01, .999))
@settings(max_examples=40, deadline=None)
def test_cut_anywhere_the_whole_members_stay(tmp_path_factory, at):
    folder = tmp_path_factory.mktemp('cut')
    whole = tar(folder/'whole.tar', pairs(4))
    end = max(sum(m) for v in S.scan_tar(whole)[0].values() for m in v.values())  # what follows is padding
    data = open(whole, 'rb').read()[:int(end * at)]
    (folder/'cut.tar').write_bytes(data)
    found, fault = S.scan_tar(folder/'cut.tar')
    expected = {(k, e): m for k, v in S.scan_tar(whole)[0].items() for e, m in v.items() if sum(m) <= len(data)}
    assert {(k, e): m for k, v in found.items() for e, m in v.items()} == expected
    assert fault == ('cut shard' if expected else 'not a tar file')

def test_cut_exactly_between_two_members(tmp_path):
    whole = tar(tmp_path/'whole.tar', pairs(2))
    offset = S.scan_tar(whole)[0]['1']['jpg'][0] - 512
    (tmp_path/'cut.tar').write_bytes(open(whole, 'rb').read()[:offset])
    assert S.scan_tar(tmp_path/'cut.tar')[1] == 'cut shard' and S.scan_tar(whole)[1] == ''

def test_a_cut_shard_is_named_and_the_others_are_read(tmp_path):
    for n in range(3): tar(tmp_path/f'{n}.tar', pairs(4, 4*n))
    (tmp_path/'1.tar').write_bytes((tmp_path/'1.tar').read_bytes()[:S.TarIndex(tmp_path/'1.tar')['6']['json'][0]])
    (tmp_path/'2.tar').write_bytes(b'<html>not found</html>' * 100); (tmp_path/'3.tar').write_bytes(b'')
    p = opened(tmp_path)
    assert [s.id for s in p.samples] == ['0', '1', '2', '3', '4', '5'] and p.skipped == [('1.tar:6', 'missing text')]
    assert 'files not whole: 1 cut shard, 2 not a tar file (1.tar, 2.tar, 3.tar)' in p.report()

def test_compressed_shard_is_not_read(tmp_path):
    with tarfile.open(tmp_path/'a.tar', 'w:gz') as t: t.addfile(tarfile.TarInfo('1.jpg'))
    with pytest.raises(GeoAlignError, match='holds no picture with a text'): S.open_shards(f'rsteller:{tmp_path}')

def test_same_key_in_two_shards_is_kept_twice(tmp_path):
    tar(tmp_path/'a.tar', pairs(2)); tar(tmp_path/'b.tar', [('0.jpg', jpeg(9)), ('0.json', record('another field'))])
    p = opened(tmp_path)
    assert [(s.id, s.brief) for s in p.samples] == [('0', 'field 0'), ('1', 'field 1'), ('b/0', 'another field')]
    assert '1 keys occur in an earlier file too' in p.report()

def test_same_key_twice_in_one_shard_loses_nothing(tmp_path):
    p = opened(tar(tmp_path/'a.tar', pairs(2) + [('0.jpg', jpeg(9)), ('0.json', record('another field'))]))
    assert [s.brief for s in p.samples] == ['field 0', 'field 1', 'another field'] and len({s.id for s in p.samples}) == 3

def test_a_shard_that_vanishes_while_running(tmp_path):
    tar(tmp_path/'a.tar', pairs(2)); tar(tmp_path/'b.tar', pairs(2, 2))
    p = opened(tmp_path); os.remove(tmp_path/'b.tar')
    assert [s.id for s in p.samples] == ['0', '1', '0', '0'] and {r for _, r in p.skipped} == {'unreadable file'}


# when too much is broken

def faulty(path, n, bad) -> str: return tar(path, [(name, b'x' if name.endswith('jpg') and int(name[:-4]) in bad else data) for name, data in pairs(n)])

def test_share_of_bad_samples_stops(tmp_path):
    where = faulty(tmp_path/'a.tar', 40, range(0, 40, 10))
    with pytest.raises(GeoAlignError, match=r'2 of 20 samples cannot be used, more than max_bad=0.05 allows, the first is a.tar:0 \(corrupt picture\)'): list(opened(where, max_bad=.05, min_seen=20).samples)
    p = opened(where, max_bad=.15, min_seen=20)
    assert len(list(p.samples)) == 40 and (p.seen, p.bad) == (40, 4)

def test_not_judged_before_enough_is_seen(tmp_path):
    p = opened(faulty(tmp_path/'a.tar', 40, [0]), max_bad=.03, min_seen=38)
    assert p.samples[0].id == '1' and p.bad == 1

def test_a_small_set_is_judged_when_all_of_it_is_seen(tmp_path):
    p = opened(faulty(tmp_path/'a.tar', 10, [0, 1]), max_bad=.1)
    with pytest.raises(GeoAlignError, match='2 of 10'): list(p.samples)

def test_share_of_missing_halves_stops_at_once(tmp_path):
    where = tar(tmp_path/'a.tar', [m for m in pairs(10) if m[0] != '1.jpg'])
    with pytest.raises(GeoAlignError, match='1 of 10 .*a.tar:1'): opened(where, max_bad=.05)
    assert len(opened(where, max_bad=.1)) == 9

def test_nothing_readable_ends(tmp_path):
    with pytest.raises(GeoAlignError, match='None of the 5 samples'): opened(faulty(tmp_path/'a.tar', 5, range(5))).image(3)

def test_bad_samples_are_counted_once_and_tried_once(tmp_path, monkeypatch):
    p, tried = opened(faulty(tmp_path/'a.tar', 6, [2])), []
    true = S.Shards.read
    monkeypatch.setattr(S.Shards, 'read', lambda self, i: tried.append(i) or true(self, i))
    for _ in range(3): p.recent.clear(); list(p.samples)
    assert tried.count(2) == 1 and p.skipped == [('a.tar:2', 'corrupt picture')] and p.seen == 6


# the table in the cache

def test_index_is_cached_and_refreshed(tmp_path, cache, monkeypatch):
    path, scans = tmp_path/'a.tar', []
    true = S.scan_tar
    monkeypatch.setattr(S, 'scan_tar', lambda p: scans.append(p) or true(p))
    tar(path, pairs(2)); os.utime(path, ns=(1, 1))
    assert len(S.TarIndex(path)) == 2 and S.TarIndex(path)['1'] == true(path)[0]['1'] and len(scans) == 1
    tar(path, pairs(40)); os.utime(path, ns=(1, 1))  # other size
    assert len(S.TarIndex(path)) == 40 and len(scans) == 2
    os.utime(path, ns=(2, 2))  # other time
    assert len(S.TarIndex(path)) == 40 and len(scans) == 3 and len(S.TarIndex(path)) == 40 and len(scans) == 3
    assert len(list((cache/'shards').iterdir())) == 1

@pytest.mark.parametrize('garbage', [b'', b'PK\x03\x04 broken', b'text'])
def test_broken_cache_is_made_again(tmp_path, cache, garbage):
    path = tar(tmp_path/'a.tar', pairs(2)); S.TarIndex(path)
    file, = (cache/'shards').iterdir(); file.write_bytes(garbage)
    assert len(S.TarIndex(path)) == 2 and S.TarIndex(path).fault == ''

def test_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path/'file').write_text(''); monkeypatch.setenv('GEOALIGN_CACHE', str(tmp_path/'file'))
    assert len(S.Shards(tar(tmp_path/'a.tar', pairs(2)))) == 2

def test_faults_come_from_the_cache_too(tmp_path):
    b = S.TarIndex(tar(tmp_path/'b.tar', pairs(2)))
    (tmp_path/'a.tar').write_bytes(open(b.path, 'rb').read()[:b['1']['json'][0]])
    assert S.TarIndex(tmp_path/'a.tar').fault == S.TarIndex(tmp_path/'a.tar').fault == 'cut shard'


# the loader

STATS = [.48, .46, .41], [.27, .26, .28]

def loader(pictures, batch: int = 4, seed: int = 0, **k): return Loader(pictures, Tokenizer(), LoaderSettings(**(dict(size=16, crop_size=8, regions=True, detailed=True) | k)), batch, *STATS, seed=seed)

def equal(a, b): return a.keys() == b.keys() and all((a[k] == b[k]).all() for k in a)

def test_the_loader_sees_no_difference(tmp_path):
    S.write_shards(samples(9), tmp_path, 4, kind='rsfg')
    reader = S.open_shards(f'rsfg:{tmp_path}')
    lazy, memory = loader([ShardImages(reader, 24)]), loader([ImageCache(list(reader), 24)])
    assert len(lazy) == len(memory) == 2 and all(equal(a, b) for (_, a), (_, b) in zip(lazy.epoch(3), memory.epoch(3)))

def test_resume_equals_the_rest_even_with_faults(tmp_path):
    where = faulty(tmp_path/'a.tar', 24, [3, 4, 17])
    whole = [b for _, b in loader([opened(where)]).epoch(1)]
    for start in (1, 4):
        rest = [b for _, b in loader([opened(where)]).epoch(1, start=start)]
        assert len(rest) == 6 - start and all(equal(a, b) for a, b in zip(rest, whole[start:]))

def test_threads_count_right(tmp_path):
    p = opened(faulty(tmp_path/'a.tar', 30, [5, 6, 20]))
    threads = [threading.Thread(target=lambda: list(p.samples)) for _ in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert (p.seen, p.bad, len(p.skipped)) == (30, 3, 3) and len(p.recent) <= 64



@pytest.mark.parametrize('regions', [False, True])
def test_words_of_direction_are_not_said_of_a_turned_view(regions):
    rsteller = R.rsteller_sample(dict(annotations=[dict(text='a barn in the upper left'), dict(text='a barn and a field')]))[0]
    rsfg_ = R.rsfg_sample(rsfg(caption='A field. A barn stands at the top.', short_caption='a field', bbox_info=[box(short_expr='the left barn', short_expr_negs={'0': 'the right barn'}), box(long_expr='A barn at the top.')] * regions))[0]
    for s in (rsteller, rsfg_):
        for seed in range(40):
            item = make_item(s, Image.new('RGB', (64, 64)), LoaderSettings(size=16, regions=regions, detailed=True, plain_share=0., min_area=.95), random.Random(seed))
            said = [item['brief'], item['detailed'], *(t for r in item['regions'] for t in (r.text, r.hna_text, *r.negatives))]
            assert not any(map(mentions_direction, said)), said


def test_a_picture_with_nothing_else_to_say_is_shown_whole():
    s, image = R.rsteller_sample(dict(annotations=[dict(text='a barn in the upper left')]))[0], picture(0, (64, 60))
    whole = make_item(s, image, LoaderSettings(size=64), random.Random(0), train=False)
    for seed in range(20):
        item = make_item(s, image, LoaderSettings(size=64), random.Random(seed))
        assert item['brief'] == s.captions[0] and (item['image'] == whole['image']).all()

def test_two_sources_side_by_side(tmp_path):
    S.write_shards(samples(4), tmp_path/'a', 4); S.write_shards(samples(4, 10), tmp_path/'b', 4, kind='rsfg')
    l = loader([ShardImages(S.open_shards(f'rsteller:{tmp_path}/a'), 24), ShardImages(S.open_shards(f'rsfg:{tmp_path}/b'), 24)], batch=8)
    batch = l.batch(0, 0)
    assert len(batch['images']) == 8 and 0 < len(batch['boxes']) <= 4

def test_memory_holds_the_last_few_only(tmp_path):
    p = opened(tar(tmp_path/'a.tar', pairs(90)))
    for i in range(90): p.image(i)
    assert len(p.recent) == 64

def test_spec(tmp_path, monkeypatch):
    S.write_shards(samples(9), tmp_path/'rsteller', 4)
    ids = [[s.id for s in S.open_shards(f'rsteller:{tmp_path}/rsteller@5', seed)] for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2] and len(set(ids[0])) == 5 and ids[0] == sorted(ids[0])
    monkeypatch.setenv('GEOALIGN_DATA', str(tmp_path))
    assert len(S.open_shards('rsteller:')) == 9 and S.open_shards('rsteller:@5').sizes.sum() == 5
    for spec, what in (('coco:x', 'unknown'), (f'rsteller:{tmp_path}/none', 'No file'), ('rsfg:', 'GEOALIGN_DATA')):
        with pytest.raises(GeoAlignError, match=what): S.open_shards(spec)


# who reads what

@given(n=st.integers(1, 300), world=st.integers(1, 5), batch=st.integers(1, 7), seed=st.integers(0, 9), epoch=st.integers(0, 9), shards=st.integers(0, 6))
@settings(deadline=None)
def test_ranks_are_disjoint_equal_and_exhaustive(n, world, batch, seed, epoch, shards):
    sizes = np.bincount(np.random.default_rng(seed).integers(0, shards, n), minlength=shards) if shards else None
    if n < world * batch:
        with pytest.raises(GeoAlignError, match='lower batch_size'): split_epoch(n, seed, epoch, 0, world, batch)
        return
    ranks = [split_epoch(n, seed, epoch, r, world, batch, sizes=sizes, together=2) for r in range(world)]
    seen = np.concatenate([r.ravel() for r in ranks])
    assert {r.shape for r in ranks} == {(epoch_steps(n, batch, world), batch)}
    assert len(set(seen)) == len(seen) > n - world * batch and set(seen) <= set(range(n))

def test_order_depends_on_seed_and_epoch_alone():
    at = lambda *a, **k: split_epoch(1000, *a, batch_size=10, **k)
    assert (at(0, 1) == at(0, 1)).all() and (at(0, 1) != at(0, 2)).any() and (at(0, 1) != at(1, 1)).any()

@pytest.mark.parametrize('sizes', [None, [100] * 4])
def test_any_number_of_ranks_sees_the_same_steps(sizes):
    one = split_epoch(400, 0, 0, batch_size=8, sizes=sizes)
    four = [split_epoch(400, 0, 0, r, 4, 2, sizes=sizes) for r in range(4)]
    assert (np.concatenate(four, 1) == one).all()

def test_workers_share_the_steps_of_a_rank():
    rank = split_epoch(103, 0, 0, 1, 2, 4)
    parts = [split_epoch(103, 0, 0, 1, 2, 4, worker=w, workers=5) for w in range(5)]
    assert sum(map(len, parts)) == len(rank) and all((parts[k % 5][k // 5] == rank[k]).all() for k in range(len(rank)))

def test_one_rank_is_the_loaders_order(tmp_path):
    p = opened(tar(tmp_path/'a.tar', pairs(10)))
    seen = []
    p.samples = type('Spy', (), dict(__getitem__=lambda _, i: seen.append(i) or p.get(i)[0]))()
    loader([p], 4, seed=5, regions=False).batch(2, 1)
    assert seen == split_epoch(10, 5, 2, batch_size=4)[1].tolist()

@pytest.mark.parametrize('bad', [dict(rank=2, world=2), dict(rank=-1), dict(worker=1), dict(sizes=[4, 5])])
def test_impossible_splits_are_refused(bad):
    with pytest.raises(GeoAlignError): split_epoch(10, 0, 0, **bad)

def test_shard_order_stays_in_a_few_shards():
    sizes = [7, 0, 12, 5, 9, 1, 30]
    order, owner = shard_order(sizes, 3, 1, together=2), np.repeat(range(7), sizes)
    assert sorted(order) == list(range(64))
    groups, left = [], list(owner[order])
    while left:
        now = set(left[:1])
        while left and len(now | {left[0]}) <= 2: now.add(left.pop(0))
        groups.append(now)
    assert len(groups) <= 4 and (np.diff(order) != 1).any()
