"A model of the second kind, small enough to build in a test: a BERT text tower and a timm convnet with a pyramid head"
import json
from functools import lru_cache

import tokenizers

from geoalignclip_nb.model import GeoAlignCLIP
from geoalignclip_nb.text import WordPieceTokenizer

MARKS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
CAPTIONS = ('a white plane beside the terminal building', 'two storage tanks and a grey roundabout', 'boats in the harbor',
            'a long road through fields of farmland', 'many small cars on the parking lot 12 3', 'background')


@lru_cache  # the library orders pieces of one frequency anew in each training
def tokenizer_json(texts=CAPTIONS, size=300) -> str:
    "The content of a `tokenizer.json` in BERT's form, trained on a few texts"
    model = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token='[UNK]'))
    model.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    model.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    alphabet = [*'abcdefghijklmnopqrstuvwxyz0123456789.,!?-']
    model.train_from_iterator(texts, tokenizers.trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=MARKS, initial_alphabet=alphabet, show_progress=False))
    model.post_processor = tokenizers.processors.TemplateProcessing(
        single='[CLS] $A [SEP]', special_tokens=[(m, model.token_to_id(m)) for m in MARKS[2:4]])
    return model.to_str()


def text_settings(content: str, **more) -> dict:
    "`text_cfg` of a BERT with 2 layers of width 32"
    size = len(json.loads(content)['model']['vocab'])
    bert = dict(model_type='bert', vocab_size=size, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                intermediate_size=64, max_position_embeddings=64, pad_token_id=0)
    return dict(hf_model_name='bert', hf_pooler_type='mean_pooler', hf_proj_type='mlp', hf_model_pretrained=False,
                context_length=48, hf_config=bert) | more


PYRAMID = dict(image_size=64, timm_model_name='test_efficientnet', pyramid=dict(levels=[2, 3, 4], grid=16, hidden=32, width=16))
VIT = dict(image_size=64, layers=2, width=64, head_width=32, patch_size=16)


def small_model(vision: dict = PYRAMID, seed: int = 0, **more) -> GeoAlignCLIP:
    "Random weights; `vision` is the `vision_cfg`"
    content = tokenizer_json()
    config = dict(embed_dim=32, quick_gelu=False, vision_cfg=dict(vision), text_cfg=text_settings(content))
    return GeoAlignCLIP.create(config, seed=seed, tokenizer=WordPieceTokenizer(content, 48), **more)
