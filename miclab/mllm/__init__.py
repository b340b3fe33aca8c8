"""The study's protocol on production models of Hugging Face: heads, knockouts, fine-tuning (extra `mllm`).

The way data flows:

    task (folder) -> prompt (tokens, roles) -> model -> heads (strengths) -> knockout, compare, finetune, scale -> page

Heads and layers are counted from 0 and written `layer.head`, as in the paper's lists for production models.
"""
