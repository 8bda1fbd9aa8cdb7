"""SciFact, Cranfield and TREC QA in miniature, laid out as published: every text is made up, every rule of the files is kept."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Mapping
from pathlib import Path

# by their numbers' hash, the claims that cite 19 are held out for tuning
CORPUS = """doc_id,title,abstract,structured
11,Cold iron,"['Iron rusts in rain.'
 ""It doesn't rust in oil.""]",False
12,Warm milk,"['Milk sours, they say, in the sun.']",False
19,Old bread,"['Bread dries.' 'Bread moulds.']",True
14,Salt water,['Salt keeps water from ice.'],False
15,Glass,['Glass is not a liquid.'],False
16,Honey,['Honey does not spoil.'],False
"""
CLAIMS = "id,claim,evidence_doc_id,evidence_label,evidence_sentences,cited_doc_ids\n"
TRAINING_CLAIMS = CLAIMS + "".join(
    [
        "0,Rain makes iron rust.,11,SUPPORT,[0],[11]\n",
        "0,Rain makes iron rust.,11,SUPPORT,[1],[11]\n",
        "2,Rain does not make iron rust.,,,[],[   11 12]\n",
        "4,Milk sours in the sun.,,,[],[12]\n",
        '6,"Bread, when old, moulds.",,,[],[19]\n',
        "8,Salt lowers the melting point.,,,[],[14]\n",
        "10,Glass does not flow.,,,[],[15]\n",
        "12,Honey keeps.,,,[],[16]\n",
    ]
)
VALIDATION_CLAIMS = CLAIMS + "1,Oil keeps iron from rust.,,,[],[11]\n3,Honey keeps.,,,[],[16]\n"

DOCUMENTS = "\n".join(
    f"<doc>\n<docno>{i}</docno>\n<title>t</title>\n<text>wing number {i}\nin a flow .</text>\n</doc>"
    for i in range(1, 9)
)
DOCUMENTS += "\n<doc>\n<docno>471</docno>\n<title></title>\n<text></text>\n</doc>"
# by the hash of their texts, 1 and 4 are training queries, 5 is held out for tuning, the others are reported
QUESTIONS = [f"what of wing {i} at speed" for i in range(1, 11)]
QUERIES = "<?xml version='1.0' encoding='utf-8' standalone='yes'?>\r\n<xml>\r\n"
QUERIES += (
    "".join(
        f"<top>\r\n<num> {3 * i}</num> \r\n<title>\r\n{q}\r\n.\r\n</title>\r\n</top>\r\n"
        for i, q in enumerate(QUESTIONS, 1)
    )
    + "</xml>"
)
JUDGEMENTS = (
    "".join(f"{i} 0 {1 + i % 8} 1\r\n{i} 0 {1 + (i + 3) % 8} {i % 2 * 3}\r\n" for i in range(1, 11))
    + "1 0 471 1\r\n"
)

ANSWERS = {
    "train": [
        ("who sang", 1, "she sang ."),
        ("who sang", 0, "he ate ."),
        ("who ate", 0, "a ate no b ."),
        ("who ate", 1, "he ate ."),
    ],
    "dev": [
        ("who ran", 0, "it , it ran not"),
        ("who ran", 1, "he ran"),
        ("who sat", 0, "no one"),
        ("who won", 1, "we won"),
    ],
    "test": [
        ("who hid", 1, "they hid"),
        ("who hid", 0, "cold"),
        ("who hid", 0, "warm"),
        ("who hid", 0, "warm"),
        ("who lost", 0, "nobody"),
    ],
}


def table(rows: list[tuple[str, int, str]]) -> str:
    return "qtext,label,atext\r\n" + "".join(f'{q},{label},"{a}"\r\n' for q, label, a in rows)


def zipped(path: Path, members: Mapping[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(zipfile.ZipInfo(name), text)  # dated 1980: equal texts are equal files


def scifact(root: Path, **changes: str) -> Path:
    members = {
        "corpus_train": CORPUS,
        "claims_train": TRAINING_CLAIMS,
        "claims_validation": VALIDATION_CLAIMS,
        **changes,
    }
    path = root / "scifact" / "scifact.zip"
    zipped(path, {f"{name}.csv": text for name, text in members.items()})
    return path


def cranfield(
    root: Path, *, documents: str = DOCUMENTS, queries: str = QUERIES, judgements: str = JUDGEMENTS
) -> Path:
    folder = root / "cranfield"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cran.all.1400.xml.gz").write_bytes(gzip.compress(documents.encode(), mtime=0))
    (folder / "cran.qry.xml").write_bytes(queries.encode())
    (folder / "cranqrel.trec.txt").write_bytes(judgements.encode())
    return folder


def trec_qa(root: Path, **changes: str) -> Path:
    folder = root / "trecqa_wang"
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in ANSWERS.items():
        (folder / f"{split}.csv.gz").write_bytes(
            gzip.compress(changes.get(split, table(rows)).encode(), mtime=0)
        )
    return folder


def all_sets(root: Path) -> Path:
    for write in (scifact, cranfield, trec_qa):
        write(root)
    return root
