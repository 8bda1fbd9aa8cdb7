"""Text as token ids: sources, splits, tokenizers, storage and the order of batches.

config = DataConfig.from_options({"source": "embedded", "tokenizer": {"kind": "bpe", "vocabulary": 2048}})
data = prepare(config, Path("cache"))
loader = OrderedLoader(WindowOrder(data.train, tokens=128, batch=8, seed=0), steps=100)
"""

from arch_lab.data.config import DataConfig, FilesConfig, HubConfig, TokenizerConfig
from arch_lab.data.formats import DataError
from arch_lab.data.order import OrderedLoader, WindowOrder, evaluation_batches, evaluation_windows
from arch_lab.data.prepare import PreparedData, prepare
from arch_lab.data.store import TokenSplit
from arch_lab.data.tokenizer import (
    ByteTokenizer,
    SubwordTokenizer,
    Tokenizer,
    load_tokenizer,
    tokenizer_from,
    train_bpe,
)

__all__ = [
    "ByteTokenizer",
    "DataConfig",
    "DataError",
    "FilesConfig",
    "HubConfig",
    "OrderedLoader",
    "PreparedData",
    "SubwordTokenizer",
    "TokenSplit",
    "Tokenizer",
    "TokenizerConfig",
    "WindowOrder",
    "evaluation_batches",
    "evaluation_windows",
    "load_tokenizer",
    "prepare",
    "tokenizer_from",
    "train_bpe",
]
