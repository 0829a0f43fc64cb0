"""Bulk inference: answer the rows of a data set concurrently, and resume after a crash.

`answer_rows` runs any async function on each row, and yields the row as soon as its answer arrives. `AnswerFile` stores
the answers, so that a program that is run again only sends the missing rows. `read_rows` reads JSON Lines and CSV.
`langchain_tir_qwen.batches` and `llama_index_tir_qwen.batches` do the same with chains, LLMs and query engines.

```python
import asyncio
from typing import Any

from tir_qwen import AsyncClient, Completion
from tir_qwen.batches import AnswerFile, answer_rows

rows = [{"id": 1, "country": "France"}, {"id": 2, "country": "Peru"}]


async def main() -> None:
    async with AsyncClient() as client:

        async def answer(row: dict[str, Any]) -> Completion:
            return await client.complete([{"role": "user", "content": f"Name the capital of {row['country']}."}])

        with AnswerFile("answers.jsonl") as file:
            async for row in answer_rows(answer, file.missing(rows), keep=file.add):
                print(row["id"], row["error"] or row["response"])


asyncio.run(main())  # in a notebook: await main()
```
"""

from ._answer_file import AnswerFile
from ._answer_rows import answer_rows
from ._engine import AnsweredRows, BatchOptions
from ._read_rows import read_rows
from ._summary import Summary

__all__ = ["AnswerFile", "AnsweredRows", "BatchOptions", "Summary", "answer_rows", "read_rows"]
