"""What a trainer may be given for a model, and settings of its memory that change no weight."""

import pytest
import torch
from peft import LoHaConfig, LoraConfig, PromptTuningConfig, get_peft_model
from toy_models import tiny_config, tiny_model, toy_batch, toy_rows, toy_task
from toy_project import make_tokenizer
from trainer_state import assert_bitwise, weights_of
from transformers import BertForSequenceClassification, DataCollatorWithPadding, GPT2ForSequenceClassification

from hf_selfdestruct.trainer.trainer import SelfDestructTrainer
from hf_selfdestruct.trainer.training_args import SelfDestructTrainingArguments


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("option", ["activation_checkpointing", "gradient_checkpointing"])
def test_recomputed_activations_change_no_weight(make_trainer, tmp_path, architecture, option):
    """Adversaries run on an architecture apart, in which nothing is recomputed."""

    def trained(**options):
        model = tiny_model(architecture, dropout=0.1)
        trainer = make_trainer(tmp_path, model=model, keeping_loss="hidden_state_distillation", **options)
        trainer.train()
        used = any(getattr(module, "gradient_checkpointing", False) for module in trainer.model.modules())
        return weights_of(trainer.model), used

    plain, none = trained()
    recomputed, used = trained(**{option: True})
    assert (none, used) == (False, True)
    assert_bitwise(recomputed, plain)


def quantized_adapter():
    model = tiny_model()
    model.hf_quantizer = object()
    return get_peft_model(model, LoraConfig(target_modules=["query"]))


def made(folder, model=None, **named):
    data = {"train_dataset": toy_rows(20, seed=1, columns=("labels",)), "blocked_tasks": [toy_task(rows=20)]}
    options = {"use_cpu": True, "report_to": "none", "method": "mlac_fast", "max_steps": 1, "save_strategy": "no"}
    args = SelfDestructTrainingArguments(str(folder), inner_steps=1, disable_tqdm=True, **options)
    return SelfDestructTrainer(model=model, args=args, **data, **named)


@pytest.mark.parametrize(
    ("model", "cure"),
    [
        (lambda: "bert-base-uncased", r"got str: load it first, .*from_pretrained\('bert-base-uncased'\)"),
        (lambda: torch.compile(tiny_model()), "got OptimizedModule: give the model that was compiled"),
        (
            lambda: get_peft_model(tiny_model(), PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)),
            r"model=PeftModelFor.* \(PROMPT_TUNING\) cannot be merged .*harden the model that get_peft_model",
        ),
        (
            quantized_adapter,
            r"model=PeftModel: .* \(LORA\) cannot be merged .*it is quantized.*: load the model in floating point",
        ),
        (lambda: tiny_model, "got function: .*model_init="),
        (lambda: torch.nn.Linear(2, 2), "got Linear: give one, such as AutoModelFor"),
    ],
    ids=["name", "compiled", "prompts", "quantized", "function", "module"],
)
def test_what_is_no_model_is_refused_with_the_cure(tmp_path, model, cure):
    with pytest.raises(TypeError, match=f"must be a transformers PreTrainedModel, {cure}|{cure}"):
        made(tmp_path, model())


def test_model_init_makes_the_model_once(tmp_path):
    calls = []

    def make(trial=None):
        calls.append(trial)
        return BertForSequenceClassification(tiny_config("bert"))

    one, two = made(tmp_path, model_init=make), made(tmp_path, model_init=lambda: make(None))
    assert_bitwise(weights_of(one.model), weights_of(two.model))
    one.train()
    assert calls == [None, None]
    with pytest.raises(ValueError, match="exclude each other"):
        made(tmp_path, tiny_model(), model_init=make)
    with pytest.raises(ValueError, match="no model: give one"):
        made(tmp_path)


@pytest.mark.parametrize(
    "adapter",
    [LoraConfig(target_modules=["value"], task_type="SEQ_CLS"), LoHaConfig(target_modules=["value"])],
    ids=["lora with its head", "loha"],
)
def test_adapters_are_merged_and_the_whole_model_is_trained(tmp_path, caplog, adapter):
    model, batch = tiny_model(), toy_batch()
    names, plain = [*model.state_dict()], model.bert.encoder.layer[0].attention.self.value.weight
    adapted = get_peft_model(model, adapter).eval()
    with torch.no_grad():
        for weight in (weight for weight in adapted.parameters() if weight.requires_grad):
            weight.add_(torch.rand_like(weight))
        wanted = adapted(**batch).logits
    trainer = made(tmp_path, adapted)
    assert trainer.model is model
    assert [*model.state_dict()] == names
    assert model.bert.encoder.layer[0].attention.self.value.weight is plain  # no copy was made
    assert all(weight.requires_grad for weight in model.parameters())
    assert "adapters are merged into the model's weights, and the whole model is trained" in caplog.text
    torch.testing.assert_close(model.eval()(**batch).logits, wanted)
    before = weights_of(model)
    trainer.train()
    assert not any(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_a_search_of_hyperparameters_is_refused_with_the_reason(tmp_path):
    with pytest.raises(NotImplementedError, match=r"a new model for each trial.*your own objective"):
        made(tmp_path, tiny_model()).hyperparameter_search(n_trials=1)


class Wrapped(torch.nn.Sequential):
    """A pipeline of modules like those of sentence-transformers, the first of which holds the model."""

    def __init__(self, model):
        super().__init__(torch.nn.Module())
        self[0].auto_model = model


Wrapped.__module__ = "sentence_transformers.base"


def test_the_model_in_a_sentence_encoder_is_trained_in_place(tmp_path):
    model = tiny_model()
    assert made(tmp_path, Wrapped(model)).model is model


def padless(**more):
    config = tiny_config("gpt2")
    config.pad_token_id = None
    return {"model": GPT2ForSequenceClassification(config), **more}


def test_padding_is_named_as_the_trainer_names_it(tmp_path):
    tokenizer = make_tokenizer()
    with pytest.raises(ValueError, match=r"GPT2For.* cannot answer blocked rows .*set tokenizer\.pad_token"):
        made(tmp_path, **padless())
    trainer = made(tmp_path, **padless(processing_class=tokenizer))
    assert trainer.model.config.pad_token_id == tokenizer.pad_token_id
    trainer.train()
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match=r"blocked task 'blocked'.*pad_token"):
        made(tmp_path, **padless(processing_class=tokenizer, data_collator=DataCollatorWithPadding(tokenizer)))
