"""DeepSpeed: two CPU processes equal one, resume, convert, are killed and go on; and what works without it."""
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from geoalignclip_nb.core import GeoAlignError
from geoalignclip_nb.model import GeoAlignCLIP
from geoalignclip_nb.train import launch, zero, zero_runs
from geoalignclip_nb.train.run_folder import Log

HAS = importlib.util.find_spec('deepspeed') is not None and sys.platform == 'linux'
needs_deepspeed = pytest.mark.skipif(not HAS, reason='DeepSpeed is not installed (Linux only)')


@pytest.fixture(scope='module')
def found(tmp_path_factory):
    "All cases of `zero_worker.equalities`, run once"
    out = tmp_path_factory.mktemp('zero')/'cases.json'
    launch.launch('zero_worker:equalities', out, env=dict(PYTHONPATH=os.path.dirname(__file__)), timeout=1200)
    return json.loads(out.read_text())


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "The folder of `zero_worker.checkpoints`, whose last act is to die while it writes step 3"
    out = tmp_path_factory.mktemp('zero_run')
    with pytest.raises(RuntimeError, match='failed in 2 processes') as e:
        launch.launch('zero_worker:checkpoints', out, env=dict(PYTHONPATH=os.path.dirname(__file__)), timeout=1200)
    assert (out/'told-1.json').exists(), str(e.value)
    return out


def test_module_imports_without_deepspeed():
    code = "import sys; sys.modules['deepspeed'] = None; import geoalignclip_nb.train.launch, geoalignclip_nb.train.zero as z; assert 'torch' in sys.modules; print(z.zero_config()['train_batch_size'])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '32'


def test_missing_deepspeed_is_one_sentence(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(GeoAlignError, match='pip install deepspeed'): zero.init_zero(None, None)


@pytest.mark.parametrize('option', ['processes=2', 'zero=2'])
def test_the_command_says_that_deepspeed_is_missing(option, monkeypatch, tmp_path, capsys):
    from geoalignclip_nb.cli import main
    before = dict(os.environ)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    assert main(['train', 'debug', option, f'out={tmp_path/"run"}']) == 2
    said = capsys.readouterr()
    assert 'pip install deepspeed' in said.err and said.err.count('\n') == 1 and not said.out and not (tmp_path/'run').exists()
    assert not {'RANK', 'WORLD_SIZE'} & (os.environ.keys() - before.keys())


def test_which_way_a_command_goes(monkeypatch):
    started, followed = [], []
    monkeypatch.delenv('WORLD_SIZE', raising=False)
    monkeypatch.setattr(launch, 'train_preset', lambda *a: ('plain', *a))
    monkeypatch.setattr(launch, '_alone_or_launched', lambda command: ('zero', *command))
    monkeypatch.setattr(launch, 'end_with_parent', lambda pid: followed.append(pid))
    monkeypatch.setattr(launch, 'start_processes', lambda *a: started.append(a))
    assert launch.train_words(['debug', 'seed=1', 'out=x']) == ('plain', 'debug', {'seed': '1'}, 'x')
    assert launch.train_words(['debug', 'zero=1', 'seed=1']) == ('zero', 'debug', {'seed': '1'}, {'zero': 1}) and launch.train_words(['debug', 'processes=1']) == ('zero', 'debug', {}, {})
    assert launch.train_words(['debug', 'processes=3', 'accumulation=2']) == Path('runs/debug-zero/model') and started == [(['debug', 'accumulation=2'], 3)]
    monkeypatch.setenv('WORLD_SIZE', '3')
    assert not followed
    assert launch.train_words(['debug', 'processes=3', '--out', 'x']) == ('zero', 'debug', {}, {'out': 'x'})
    assert len(started) == 1 and followed == [os.getppid()]
    monkeypatch.setenv('GEOALIGN_PARENT', '7')
    launch.train_words(['debug'])
    assert followed[1:] == [7]


def alive(pid: int) -> bool:
    "Whether a process runs; one that has ended and waits for its parent does not"
    try: return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError: return False


def ends_soon(pids: list[int], limit: float = 1.) -> bool:
    "Whether all processes end within `limit` seconds"
    end = time.time() + limit
    while any(map(alive, pids)) and time.time() < end: time.sleep(.01)
    return not any(map(alive, pids))


SLEEPERS = """
import os, sys
from torch.distributed.run import main
from geoalignclip_nb.train import launch
os.environ['GEOALIGN_PARENT'] = str(os.getpid())
code = 'import time; open(sys.argv[1] + f"/{os.getpid()}", "w").close(); time.sleep(600)'
main(launch.torchrun_arguments(2, code, sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='prctl')
def test_kill_9_of_the_launcher_ends_its_ranks_at_once(tmp_path):
    "Ranks that sleep, so that no thread of theirs looks for the launcher: the kernel ends them"
    job = subprocess.Popen([sys.executable, '-c', SLEEPERS, str(tmp_path)], stderr=subprocess.DEVNULL)
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2, job)
    ranks = [int(path.name) for path in tmp_path.iterdir()]
    assert all(map(alive, ranks))
    job.kill()
    job.wait()
    assert ends_soon(ranks)


@pytest.mark.skipif(sys.platform != 'linux', reason='prctl')
def test_a_rank_whose_parent_is_gone_already_does_not_start():
    code = launch.START + 'print("started")'
    env = os.environ | dict(GEOALIGN_PARENT='1')
    job = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    assert job.returncode == 1 and not job.stdout


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: True)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    launch.check_devices(2)
    with pytest.raises(GeoAlignError, match='one process per GPU'): launch.check_devices(3)


def test_a_process_ends_with_the_one_that_started_it():
    "kill -9 of the middle one of three; the last one holds the pipe, which is at its end when nobody holds it"
    read, write = os.pipe()
    middle = os.fork()
    if not middle:
        if not os.fork():
            launch.end_with_parent(os.getppid(), .05)
            os.write(write, b'here')
        time.sleep(600)
    os.close(write)
    assert os.read(read, 4) == b'here'
    os.kill(middle, signal.SIGKILL); os.waitpid(middle, 0)
    assert os.read(read, 1) == b''
    os.close(read)


@needs_deepspeed
def test_gathered_ranks_equal_the_whole_batch(found):
    rows = [r for r in found if r['gather'] and r['precision'] == 'fp32' and r['accumulation'] == 1]
    assert {r['split'] for r in rows} == {'equal', 'unequal', 'one rank without'} and any(0 in r['regions'] for r in rows) and {r['stage'] for r in rows} == {1, 2}
    for r in rows: assert r['loss'] < 1e-5 and r['weights'] < 1e-5 < r['update'] and r['relative'] < 1e-4, r


@needs_deepspeed
def test_local_ranks_equal_block_masked_negatives(found):
    rows = [r for r in found if not r['gather'] and r['precision'] == 'fp32']
    assert {r['accumulation'] for r in rows} == {1, 2} and any(0 in r['regions'] for r in rows)
    for r in rows: assert r['loss'] < 1e-5 and r['weights'] < 1e-5 < r['update'] and r['relative'] < 1e-4, r


@needs_deepspeed
def test_gathering_matters(found):
    first = {r['gather']: r['first']['total'] for r in found if r['split'] == 'unequal' and r['precision'] == 'fp32' and r['stage'] == 2 and r['accumulation'] == 1}
    assert abs(first[True] - first[False]) > .1


@needs_deepspeed
def test_bf16_stays_near_one_process(found):
    for r in found:
        if r['precision'] == 'bf16': assert r['loss'] < 1e-2 and r['relative'] < 3e-2, r  # measured: 5e-3 and 1.9e-2


@needs_deepspeed
def test_all_ranks_hold_the_same_bits(found): assert all(r['same_everywhere'] for r in found)


@needs_deepspeed
def test_log_scales_learn_under_bf16(found):
    for r in found:
        moved = r['scales_moved']
        assert len(moved) == 3
        if r['precision'] == 'bf16': assert all(1e-5 < v < 1e-3 for v in moved.values()), r  # a step of bf16 near 2.66 is 1.6e-2


@needs_deepspeed
def test_resume_is_exact(run):
    for rank in (0, 1):
        told = json.loads((run/f'told-{rank}.json').read_text())
        assert told['state'] == [2, [0, 1, 2, 3, 4]] and told['loaded'] and told['resumed'] == [True, True]


@needs_deepspeed
def test_a_bad_loss_on_one_rank_stops_all(run):
    for rank in (0, 1):
        told = json.loads((run/f'told-{rank}.json').read_text())
        assert 'not finite' in told['bad'] and told['untouched']


@needs_deepspeed
def test_a_gradient_that_is_not_finite_on_one_rank_stops_all(run):
    for rank in (0, 1):
        told = json.loads((run/f'told-{rank}.json').read_text())
        assert 'The gradient is not finite' in told['overflow'] and told['untouched by overflow']


@needs_deepspeed
def test_the_start_vocabulary_stays_under_zero(run):
    for rank in (0, 1): assert json.loads((run/f'told-{rank}.json').read_text())['vocabulary']


class Code:
    "A pickle that runs code"
    def __reduce__(self): return os.putenv, ('GEOALIGN_CODE_RAN', '1')


@needs_deepspeed
def test_a_replaced_states_file_is_refused_and_its_code_does_not_run(run, tmp_path, monkeypatch):
    folder = tmp_path/'run'
    shutil.copytree(run/'run', folder)
    newest = zero_runs.newest(folder)
    states = next(newest.glob('*optim_states.pt'))
    monkeypatch.delenv('GEOALIGN_CODE_RAN', raising=False)
    whole = states.read_bytes()
    for content in (None, whole[:5000]):
        torch.save(dict(a=Code()), states) if content is None else states.write_bytes(content)
        with pytest.raises(GeoAlignError, match=f'{states.name} is not the file that was written'): zero_runs.zero_model(folder)
    torch.save(dict(a=Code()), states)
    notes = json.loads((newest/'geoalign.json').read_text())
    forged = notes | dict(files=zero_runs.file_hashes(newest))
    (newest/'geoalign.json').write_text(json.dumps(forged))  # the hashes fit now
    with pytest.raises(GeoAlignError, match='cannot be read safely'): zero_runs.zero_model(folder)
    (newest/'geoalign.json').write_text('{"step": ')
    with pytest.raises(GeoAlignError, match='geoalign.json is broken'): zero_runs.zero_model(folder)


@needs_deepspeed
def test_scales_are_clamped_in_the_masters(run):
    top, bottom = json.loads((run/'told-0.json').read_text())['clamped']
    assert 4.60 < top <= 4.60518 and 0 <= bottom < 1e-3


@needs_deepspeed
def test_killed_write_leaves_the_previous_checkpoint(run, tmp_path):
    assert (run/'run'/'.part').is_dir() and zero_runs.newest(run/'run').name == 'step-00000002'
    model = GeoAlignCLIP.from_pretrained(zero_runs.zero_to_model(run/'run', tmp_path/'model'))
    image, text, weights = torch.load(run/'embeddings.pt')
    from zero_worker import batches
    assert model.state_dict().keys() == weights.keys() and all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    close = lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=1e-6)  # the other process ran on one thread
    close(model.encode_text(['two white planes', 'a harbour']), text)
    close(model.encode_image(batches(model, 'unequal', 2)[1][0]['images']), image)


@needs_deepspeed
def test_another_number_of_processes_is_refused(run):
    with pytest.raises(GeoAlignError, match='2 processes'): zero_runs.load_zero(None, run/'run')


@needs_deepspeed
def test_a_folder_that_cannot_be_written(run):
    for rank in (0, 1): assert 'previous checkpoint is kept' in json.loads((run/f'told-{rank}.json').read_text())['blocked']


@needs_deepspeed
def test_a_full_disk_in_the_middle_of_a_write(run):
    for rank in (0, 1):
        said, newest = json.loads((run/f'told-{rank}.json').read_text())['full']
        assert 'No space left on device' in said and 'previous checkpoint is kept' in said and newest == 'step-00000002'


@needs_deepspeed
def test_a_folder_of_a_run_that_cannot_be_made(run):
    for rank in (0, 1): assert 'out=FOLDER' in json.loads((run/f'told-{rank}.json').read_text())['no folder']


@needs_deepspeed
def test_an_ill_run_says_so_on_every_rank_and_keeps_its_checkpoint(run):
    words = ('no memory is left', 'not finite', 'No space left on device')
    for rank in (0, 1):
        found = json.loads((run/f'told-{rank}.json').read_text())['ill']
        assert all(w in said for w, (said, _) in zip(words, found)) and [newest for _, newest in found] == ['step-00000001'] * 3
    rows = Log(run/'ill'/'log.jsonl').read()  # the second start has made up for the measurement
    assert [('validation' in r, r['step']) for r in rows] == [(False, 1), (True, 1)] and zero_runs.newest(run/'ill'/'stage1', 'best').name == 'step-00000001'
    assert all(p.isfinite().all() for p in zero_runs.zero_model(run/'ill'/'stage1').parameters())


@needs_deepspeed
def test_two_stages_of_a_preset(run):
    told = json.loads((run/'told-0.json').read_text())
    rows = Log(run/'debug'/'log.jsonl').read()
    assert [(r['stage'], r['step'], 'validation' in r) for r in rows] == [(1, 1, False), (1, 1, True), (2, 1, False), (2, 2, False), (2, 2, True), (2, 3, False), (2, 4, False), (2, 4, True)]
    assert told['heard'] == rows and json.loads((run/'told-1.json').read_text())['heard'] == []  # one process reports
    assert len((run/'debug'/'log.csv').read_text().splitlines()) == len(rows) + 1 and json.loads((run/'debug'/'settings.json').read_text())['checkpoint_steps'] == 1
    model = GeoAlignCLIP.from_pretrained(told['preset'])
    assert model.trained and 0 < model.known_tokens.sum() < 49408
    card = (Path(told['preset'])/'README.md').read_text()  # written by the recipe, as for one process
    assert '1 step of' in card and ' images and 0 regions seen' in card and 'Stage 2' in card


@needs_deepspeed
def test_best_names_the_best_measured_checkpoint_and_converts(run, tmp_path):
    folder, measured = run/'debug'/'stage2', {r['step']: r['mean_recall'] for r in Log(run/'debug'/'log.jsonl').read() if r['stage'] == 2 and 'validation' in r}
    best = zero_runs.newest(folder, 'best')
    assert measured[int(best.name[5:])] == max(measured.values()) and zero_runs.newest(folder).name == 'step-00000004'
    assert {p.name for p in folder.glob('step-*')} == {'step-00000002', 'step-00000003', 'step-00000004'}  # two stay, and the one that was the best when the last was written
    assert GeoAlignCLIP.from_pretrained(zero_runs.zero_to_model(folder, tmp_path/'best', which='best')).trained


def geoalign_train(*words):
    "The command in a process of its own, whose own processes are `children`"
    command = [sys.executable, '-c', 'import sys; from geoalignclip_nb.cli import main; sys.exit(main())', 'train', 'debug', 'processes=2', *words]
    return subprocess.Popen(command, env=os.environ | dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', DS_ACCELERATOR='cpu'), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def children(pid) -> list:
    found = []
    for p in Path('/proc').glob('[0-9]*/stat'):
        try: after = p.read_text().rpartition(')')[2].split()
        except OSError: continue  # it has ended
        if int(after[1]) == pid and after[0] != 'Z': found.append(int(p.parent.name))
    return found


def wait_for(true, process, limit=1200):
    end = time.time() + limit
    while not true():
        assert process.poll() is None and time.time() < end, process.communicate()
        time.sleep(.02)


@needs_deepspeed
def test_kill_9_of_the_launcher_then_the_same_command(run, tmp_path):
    "The launcher is killed in the middle of Stage II; in fp32 on the same number of processes the rest equals the run that was never stopped, to the bit"
    from zero_worker import FOUR
    words, newest = [f'{k}={v}' for k, v in FOUR.items()] + [f'out={tmp_path/"run"}'], tmp_path/'run'/'stage2'/'latest'
    job = geoalign_train(*words)
    wait_for(lambda: newest.is_file() and newest.read_text() >= 'step-00000002', job)
    started = children(job.pid)
    job.kill()  # the launcher alone
    job.communicate()
    assert len(started) == 2 and ends_soon(started)
    assert job.returncode == -signal.SIGKILL and not (tmp_path/'run'/'model').exists(), 'the run ended before it could be killed'
    job = geoalign_train(*words)
    out, err = job.communicate(timeout=1200)
    assert job.returncode == 0 and out.split() == [str(tmp_path/'run'/'model')], err
    rows = lambda folder: [{k: v for k, v in r.items() if k != 'seconds'} for r in Log(folder/'log.jsonl').read()]
    assert rows(tmp_path/'run') == rows(run/'debug')
    assert (tmp_path/'run'/'model'/'model.safetensors').read_bytes() == (run/'debug'/'model'/'model.safetensors').read_bytes()


@needs_deepspeed
def test_a_mistake_in_the_processes_is_one_sentence(tmp_path):
    job = geoalign_train('stage1.sources=rsfg:nowhere', f'out={tmp_path/"run"}')
    out, err = job.communicate(timeout=1200)
    assert job.returncode == 2 and not out and 'Traceback' not in err and err.count('nowhere') == 1, err
    assert err.strip().splitlines()[-1].startswith('geoalign train: ')


@needs_deepspeed
def test_ctrl_c_ends_all_processes(tmp_path):
    job = geoalign_train(f'out={tmp_path/"run"}')
    wait_for((tmp_path/'run'/'settings.json').exists, job)  # both have joined
    started = children(job.pid)
    assert len(started) == 2
    job.send_signal(signal.SIGINT)
    out, err = job.communicate(timeout=600)
    assert job.returncode == 130 and 'Traceback' not in err and not [p for p in started if Path(f'/proc/{p}').exists()], err


@needs_deepspeed
def test_a_failing_process_is_heard():
    with pytest.raises(RuntimeError, match='no_such_function'): launch.launch('os:no_such_function', processes=1)


@needs_deepspeed
def test_other_settings_are_refused_before_anything_starts(run):
    told = json.loads((run/'told-0.json').read_text())
    with pytest.raises(GeoAlignError, match='other settings'): zero_runs.train_zero('debug', {'seed': '5'}, out=Path(told['preset']).parent)
