#include "cai/run_config.h"
#include "data/columns.h"

#include <stddef.h>

#define AT(field) offsetof(RunConfig, field)
#define BIG 1e18

/* Rows that every training section shares; the defaults that differ are arguments. */
// clang-format off
#define OPTIM_ROWS(sec, field, steps_, micro_, lr_, schedule_) \
    {sec ".steps",        CFG_INT,   CFG_RESULT, AT(field.steps),        steps_,    0, BIG, "optimizer steps (rl: updates); 0: follow from epochs"}, \
    {sec ".micro_tokens", CFG_INT,   CFG_RESULT, AT(field.micro_tokens), micro_,    16, BIG, "tokens per forward pass"}, \
    {sec ".warmup",       CFG_INT,   CFG_RESULT, AT(field.warmup),       "20",     0, BIG, "warm-up steps"}, \
    {sec ".lr",           CFG_FLOAT, CFG_RESULT, AT(field.lr),           lr_,       0, 10,  "peak learning rate, AdamW"}, \
    {sec ".min_lr",       CFG_FLOAT, CFG_RESULT, AT(field.min_lr),       "0.1",    0, 1,   "floor of the schedule, share of lr"}, \
    {sec ".weight_decay", CFG_FLOAT, CFG_RESULT, AT(field.weight_decay), "0.1",    0, 10,  "AdamW weight decay of matrices and embeddings"}, \
    {sec ".clip",         CFG_FLOAT, CFG_RESULT, AT(field.clip),         "1",      0, 1e9, "largest global gradient norm; 0: off"}, \
    {sec ".beta1",        CFG_FLOAT, CFG_RESULT, AT(field.beta1),        "0.9",    0, 1,   "AdamW beta1"}, \
    {sec ".beta2",        CFG_FLOAT, CFG_RESULT, AT(field.beta2),        "0.95",   0, 1,   "AdamW beta2"}, \
    {sec ".eps",          CFG_FLOAT, CFG_RESULT, AT(field.eps),          "1e-8",   1e-30, 1, "AdamW epsilon"}, \
    {sec ".schedule",     CFG_ENUM,  CFG_RESULT, AT(field.schedule),     schedule_, 0, 0,   "learning-rate schedule"}, \
    {sec ".recompute",    CFG_ENUM,  CFG_RUNTIME, AT(field.recompute),   "auto|false|true", 0, 0, "keep only block inputs and recompute in backward: less memory, about 1.3x time; auto: of adapters that would else need more than a quarter of the model's bytes"}

/* Of stages whose loop is the trainer's: data decides how long it takes. */
#define TRAIN_ROWS(sec, field, steps_, epochs_, lr_, schedule_) \
    {sec ".epochs",       CFG_FLOAT, CFG_RESULT, AT(field.epochs),       epochs_,   0, 1e6, "passes over the data when steps is 0"}, \
    {sec ".batch_tokens", CFG_INT,   CFG_RESULT, AT(field.batch_tokens), "4096",  16, BIG, "tokens per optimizer step (about; micro_tokens x accumulation)"}, \
    OPTIM_ROWS(sec, field, steps_, "4096", lr_, schedule_)

#define SAMPLE_ROWS(sec, field, temperature_, max_new_)                                                                                   \
    {sec ".temperature",  CFG_FLOAT, CFG_RESULT, AT(field.temperature),  temperature_, 0, 100, "sampling temperature; 0: greedy"},         \
    {sec ".top_p",        CFG_FLOAT, CFG_RESULT, AT(field.top_p),        "1",      0, 1,   "nucleus sampling; 1: off"},                  \
    {sec ".top_k",        CFG_INT,   CFG_RESULT, AT(field.top_k),        "0",      0, 1e6, "top-k sampling; 0: off"},                    \
    {sec ".max_new",      CFG_INT,   CFG_RESULT, AT(field.max_new),      max_new_,  1, 1e6, "longest reply, tokens"}

#define COSINE "cosine|constant|linear|wsd"
#define LINEAR "linear|constant|cosine|wsd"

const CfgKey run_keys[] = {
    {"run.name",    CFG_STR,   CFG_RUNTIME, AT(run.name),    "",     0, 0,    "name of the run directory; empty: the file's name"},
    {"run.out",     CFG_STR,   CFG_RUNTIME, AT(run.out),     "out",  0, 0,    "where runs and the store live"},
    {"run.seed",    CFG_INT,   CFG_RESULT,  AT(run.seed),    "0",    0, BIG,  "every random number follows from it"},
    {"run.threads", CFG_INT,   CFG_RUNTIME, AT(run.threads), "0",    0, 1024, "compute threads; 0: all usable CPUs"},
    {"run.backend", CFG_ENUM,  CFG_RESULT,  AT(run.backend), "cpu|ref|cuda", 0, 0, "cpu; cuda: one GPU; ref: F64 reference, slow"},
    {"run.device",  CFG_INT,   CFG_RUNTIME, AT(run.device),  "0",    0, 1023, "which GPU, with run.backend cuda"},
    {"run.isa",     CFG_ENUM,  CFG_RESULT,  AT(run.isa),     "auto|scalar|avx2|avx512|avx512_bf16|exact|amx", 0, 0, "highest instruction set used by backend cpu; exact, backend cuda: no row depends on its company, so rollouts and training give equal bits"},
    {"run.dtype",   CFG_ENUM,  CFG_RESULT,  AT(run.dtype),   "fp32|bf16", 0, 0, "of weights and of what products read; bf16: F32 sums, masters, statistics, losses"},
    {"run.state_s", CFG_FLOAT, CFG_RUNTIME, AT(run.state_s), "30",   0, 1e9,  "seconds between saved training states"},

    {"ckpt.every",      CFG_INT,  CFG_RUNTIME, AT(ckpt.every),      "0",    0, BIG,  "steps (rl: updates) between saved training states, beside run.state_s; 0: by the clock alone"},
    {"ckpt.keep",       CFG_INT,  CFG_RUNTIME, AT(ckpt.keep),       "2",    1, 1e6,  "newest training states that stay while a stage runs"},
    {"ckpt.keep_every", CFG_INT,  CFG_RUNTIME, AT(ckpt.keep_every), "0",    0, BIG,  "states whose step is a multiple stay, also after the stage is done; 0: none"},
    {"ckpt.keep_best",  CFG_BOOL, CFG_RUNTIME, AT(ckpt.keep_best),  "false", 0, 0,   "the state with the lowest loss (rl: highest reward) stays, also after the stage is done"},
    {"ckpt.async",      CFG_BOOL, CFG_RUNTIME, AT(ckpt.async),      "true", 0, 0,    "write states in the background, from a copy in memory; false: training waits, without a copy"},
    {"dist.ranks",     CFG_INT,   CFG_RUNTIME, AT(dist.ranks),     "0",  0, 4096, "ranks that train together, each on its share of every step; 0: as many as mpirun or srun started, else one. Results do not depend on it"},
    {"dist.comm",      CFG_ENUM,  CFG_RUNTIME, AT(dist.comm),      "auto|self|threads|mpi|nccl", 0, 0, "what ranks are: threads of this process, or processes that mpirun or srun started (mpi); auto: these where there are some, else threads; nccl: as auto, gradients and weights travel between GPUs, one a rank"},
    {"dist.tp",        CFG_INT,   CFG_RESULT,  AT(dist.tp),        "1",  1, 1024, "tensor parallel: ranks that share every matrix of a model, in training, generation and scoring; it divides the number of ranks, the model's heads, its key and value heads and d_ff. Results depend on it to rounding"},
    {"dist.cp",        CFG_INT,   CFG_RESULT,  AT(dist.cp),        "1",  1, 1024, "context parallel: ranks that divide the rows of every micro-batch that trains, sequences from both ends, so that long ones fit; it divides the number of ranks. Results depend on it to rounding"},
    {"dist.pp",        CFG_INT,   CFG_RUNTIME, AT(dist.pp),        "1",  1, 1024, "pipeline parallel: stages that a model's layers are divided into while it is trained, one rank each; it divides the number of ranks. Results do not depend on it"},
    {"dist.zero",      CFG_ENUM,  CFG_RUNTIME, AT(dist.zero),      "false|true|2|0|1", 0, 0, "ZeRO stage; true or 1: each rank holds its part of the optimizer's state, 12 of 16 bytes per parameter, and updates that; 2: of sums of gradients, too; every micro-batch's gradient travels. Results do not depend on it"},
    {"dist.overlap",   CFG_BOOL,  CFG_RUNTIME, AT(dist.overlap),   "false", 0, 0, "gradients leave for other ranks while the backward of the layers below goes on: where a network moves them; on one machine the same CPUs do. false: when it is over. Results do not depend on it"},
    {"dist.tree",      CFG_BOOL,  CFG_RESULT,  AT(dist.tree),      "true", 0, 0, "gradients of micro-batches add up as one fixed tree, the same for any number of ranks; false, one rank: in the order they come, which needs less memory"},
    {"dist.check_every", CFG_INT, CFG_RUNTIME, AT(dist.check_every), "100", 0, 1e9, "steps (rl: updates) between comparisons of the ranks' weights, which must be equal to the bit; also before each saved state; 0: never"},
    {"dist.timeout_s", CFG_FLOAT, CFG_RUNTIME, AT(dist.timeout_s), "1800", 0, 1e9, "seconds that a rank waits for the others in one call; 0: for ever"},
    {"dist.gpus",      CFG_INT,   CFG_RUNTIME, AT(dist.gpus),      "0", 0, 1024, "GPUs that the ranks of one machine take in turn, from run.device on; 0: one each. NCCL wants each rank on a GPU of its own"},

    {"data.source",        CFG_ENUM, CFG_RESULT, AT(data.source), "files|world", 0, 0, "files: data.dir; world: the generated tiny world"},
    {"data.dir",           CFG_STR,  CFG_RUNTIME, AT(data.dir), "../shared/data/quickstart", 0, 0, "folder of the data files"},
    {"data.pretrain",      CFG_LIST, CFG_RESULT, AT(data.pretrain), "pretrain.jsonl", 0, 0, "text files: {text} rows or plain text"},
    {"data.sft",           CFG_LIST, CFG_RESULT, AT(data.sft), "sft.jsonl", 0, 0, "instruction files: {prompt, response} or chat messages"},
    {"data.sft_turns",     CFG_ENUM, CFG_RESULT, AT(data.sft_turns), "all|last", 0, 0, "assistant turns of an instruction dialogue that are learned: all that its row leaves to learn (of prompt and completion: the completion's), or the last"},
    {"data.format",        CFG_LIST, CFG_RESULT, AT(data.format), "", 0, 0, "critique and judge demonstrations: {kind, ...}"},
    {"data.redteam",       CFG_LIST, CFG_RESULT, AT(data.redteam), "redteam_prompts.jsonl", 0, 0, "red-team prompts: {prompt, category}"},
    {"data.benign",        CFG_LIST, CFG_RESULT, AT(data.benign), "", 0, 0, "harmless prompts: {prompt} or {turns}"},
    {"data.prefs_helpful", CFG_LIST, CFG_RESULT, AT(data.prefs_helpful), "", 0, 0, "helpfulness preferences: {prompt, chosen, rejected}"},
    {"data.prefs_harmless", CFG_LIST, CFG_RESULT, AT(data.prefs_harmless), "", 0, 0, "harmlessness preferences, for judge demonstrations and PM evaluation"},
    {"data.harm_qa",       CFG_LIST, CFG_RESULT, AT(data.harm_qa), "", 0, 0, "labelled replies: {prompt, response, harmful}"},
    {"data.choice",        CFG_LIST, CFG_RESULT, AT(data.choice), "", 0, 0, "multiple choice items: {prompt, choices, gold}"},
    {"data.eval",          CFG_LIST, CFG_RESULT, AT(data.eval), "", 0, 0, "evaluation prompts kept out of training; empty: a split of the prompts"},
    {"data.judge_gold",    CFG_LIST, CFG_RESULT, AT(data.judge_gold), "", 0, 0, "judge checks: {prompt, a, b, principle, better: 0|1|-1}"},
    {"data.pm_gold",       CFG_LIST, CFG_RESULT, AT(data.pm_gold), "", 0, 0, "preference pairs the PM is checked on, never trained on"},
    {"data.columns",       CFG_LIST, CFG_RESULT, AT(data.columns), "", 0, 0, "other names of columns, ours:theirs, such as prompt:question,completion:answer"},
    {"data.dedup",         CFG_FLOAT, CFG_RESULT, AT(data.dedup), "0.8", 0, 2, "MinHash similarity from which a row is a duplicate; above 1: exact only"},
    {"data.eval_share",    CFG_FLOAT, CFG_RESULT, AT(data.eval_share), "0.1", 0, 0.9, "share of prompts held out for evaluation when data.eval is empty"},
    {"data.dev_share",     CFG_FLOAT, CFG_RESULT, AT(data.dev_share), "0", 0, 0.9, "share of prompts kept for choosing settings: learnt nowhere, as those for evaluation are, and answered in their place with eval.split: dev"},
    {"data.max_lost",      CFG_FLOAT, CFG_RESULT, AT(data.max_lost), "0.25", 0, 1, "largest share of tokens that may be truncated or dropped before a stage fails"},
    {"data.max_rows",      CFG_INT,  CFG_RESULT, AT(data.max_rows), "0", 0, BIG, "rows used per file, a seeded sample; 0: all"},

    {"world.seed",          CFG_INT, CFG_RESULT, AT(world.seed), "1", 0, BIG, "seed of the generated world (its lexicon split and texts)"},
    {"world.categories",    CFG_INT, CFG_RESULT, AT(world.categories), "8", 2, 8, "harmful categories, and as many benign ones"},
    {"world.objects",       CFG_INT, CFG_RESULT, AT(world.objects), "12", 4, 12, "objects per category"},
    {"world.demo_objects",  CFG_INT, CFG_RESULT, AT(world.demo_objects), "8", 1, 12, "objects per harmful category that demonstrations may use"},
    {"world.eval_prompts",  CFG_INT, CFG_RESULT, AT(world.eval_prompts), "200", 8, 10000, "least number of held-out harmful prompts"},
    {"world.sft_rows",      CFG_INT, CFG_RESULT, AT(world.sft_rows), "40000", 10, BIG, "demonstration rows in all (helpful, critique, judge)"},
    {"world.pretrain_docs", CFG_INT, CFG_RESULT, AT(world.pretrain_docs), "4000", 1, BIG, "documents of facts"},
    {"world.prefs_helpful", CFG_INT, CFG_RESULT, AT(world.prefs_helpful), "1500", 0, BIG, "rule-made helpfulness pairs"},
    {"world.helpful_share", CFG_FLOAT, CFG_RESULT, AT(world.helpful_share), "0.47", 0, 1, "share of demonstrations that are helpful dialogue"},
    {"world.critique_share", CFG_FLOAT, CFG_RESULT, AT(world.critique_share), "0.25", 0, 1, "share that demonstrate critique and revision"},
    {"world.applies_share", CFG_FLOAT, CFG_RESULT, AT(world.applies_share), "0", 0, 1, "share that demonstrate whether a principle applies, which constitution.score odds and fusion ask"},
    {"world.reason_share",  CFG_FLOAT, CFG_RESULT, AT(world.reason_share), "0", 0, 1, "share of the judge rows that give reasons first (judge.own.reasons)"},
    {"world.judge_share",   CFG_FLOAT, CFG_RESULT, AT(world.judge_share), "0.28", 0, 1, "share that demonstrate judging"},

    {"tokenizer.import", CFG_STR,  CFG_RESULT, AT(tokenizer.import), "", 0, 0, "a tokenizer.json to use; empty: train one"},
    {"tokenizer.vocab",  CFG_INT,  CFG_RESULT, AT(tokenizer.vocab), "4096", 300, 200000, "vocabulary size of a trained tokenizer"},
    {"tokenizer.split",  CFG_ENUM, CFG_RESULT, AT(tokenizer.split), "llama3|gpt2", 0, 0, "split pattern of a trained tokenizer"},

    {"model.path",       CFG_STR,  CFG_RESULT, AT(model.path), "", 0, 0, "model folder (config.json, safetensors, tokenizer.json) to start from; empty: random weights"},
    {"model.prompts",    CFG_ENUM, CFG_RESULT, AT(model.prompts), "auto|sentinels|headings", 0, 0, "how a model from model.path is asked to criticise, revise and judge: by special tokens added to its vocabulary, or in plain words by its own chat template, in two calls; auto: headings if it has a template and not the tokens"},
    {"model.family",     CFG_ENUM, CFG_RESULT, AT(model.family), "llama|gpt2", 0, 0, "family of features of a new model"},
    {"model.n_layer",    CFG_INT,  CFG_RESULT, AT(model.n_layer), "4", 1, 1000, "layers"},
    {"model.n_head",     CFG_INT,  CFG_RESULT, AT(model.n_head), "4", 1, 1000, "query heads"},
    {"model.n_kv_head",  CFG_INT,  CFG_RESULT, AT(model.n_kv_head), "0", 0, 1000, "key/value heads; 0: as query heads"},
    {"model.d_model",    CFG_INT,  CFG_RESULT, AT(model.d_model), "192", 8, 100000, "width"},
    {"model.d_ff",       CFG_INT,  CFG_RESULT, AT(model.d_ff), "0", 0, 1000000, "MLP width; 0: 8/3 (llama) or 4 (gpt2) times d_model, rounded up to 32"},
    {"model.max_seq",    CFG_INT,  CFG_RESULT, AT(model.max_seq), "512", 16, 1000000, "context, tokens"},
    {"model.tied",       CFG_BOOL, CFG_RESULT, AT(model.tied), "true", 0, 0, "head tied to the embedding"},
    {"model.rope_theta", CFG_FLOAT, CFG_RESULT, AT(model.rope_theta), "10000", 1, 1e12, "RoPE base"},

    {"lora.r",       CFG_INT,   CFG_RESULT, AT(lora.r), "0", 0, 65536, "rank of LoRA adapters, trained beside frozen weights; 0: none, all weights are trained"},
    {"lora.alpha",   CFG_FLOAT, CFG_RESULT, AT(lora.alpha), "32", 1e-6, 1e6, "an adapter's product is scaled by alpha / r"},
    {"lora.rslora",  CFG_BOOL,  CFG_RESULT, AT(lora.rslora), "false", 0, 0, "scaled by alpha / sqrt(r) instead"},
    {"lora.dropout", CFG_FLOAT, CFG_RESULT, AT(lora.dropout), "0", 0, 0.99, "share of an adapter's inputs that are 0 in training, as PEFT's lora_dropout; in rl only with rl.method dpo, the others compare a net with itself"},
    {"lora.targets", CFG_LIST,  CFG_RESULT, AT(lora.targets), "all-linear", 0, 0, "modules that get one: names or ends of names (q_proj, mlp.c_proj), or a pattern over whole names, as PEFT takes it; all-linear: every matrix of the layers"},
    {"lora.stages",  CFG_LIST,  CFG_RESULT, AT(lora.stages), "helpful,sl,pm,rl", 0, 0, "stages that train adapters: helpful, sl, pm, rl, classifier; each leaves adapter/ (PEFT's files) and, merged, model/"},

    {"constitution.path",    CFG_STR,   CFG_RUNTIME, AT(constitution.path), "constitution.json", 0, 0, "JSON or XML; relative to the working directory, else to the data folder"},
    {"constitution.select",  CFG_ENUM,  CFG_RESULT, AT(constitution.select), "random|bm25|top1|sampled|all", 0, 0, "how a principle is chosen for a dialogue: evenly; sampled by BM25; the best by constitution.score; sampled by it; all: every principle is shown at once"},
    {"constitution.score",   CFG_ENUM,  CFG_RESULT, AT(constitution.score), "bm25|text|embedding|odds|fusion", 0, 0, "top1, sampled: what scores principles: words; words, words alike and what the run's prompts teach of words; that and the model's embeddings; log-odds of 'applies' of the best by both; the sum of all"},
    {"constitution.candidates", CFG_INT, CFG_RESULT, AT(constitution.candidates), "8", 1, 64, "odds, fusion: how many of the best the model is asked about"},
    {"constitution.tau",     CFG_FLOAT, CFG_RESULT, AT(constitution.tau), "1", 0.001, 1000, "sampled: the softmax is of score / tau"},
    {"constitution.epsilon", CFG_FLOAT, CFG_RESULT, AT(constitution.epsilon), "0.1", 0, 1, "uniform share mixed into the bm25 and sampled choices"},
    {"constitution.only",    CFG_LIST,  CFG_RESULT, AT(constitution.only), "", 0, 0, "ids of the principles used; empty: all"},

    TRAIN_ROWS("pretrain", pretrain.t, "0", "1", "1e-3", COSINE),
    {"pretrain.objective", CFG_ENUM,  CFG_RESULT, AT(pretrain.objective), "next|masked", 0, 0, "next-token, or masked-token with bidirectional attention"},
    {"pretrain.mask_rate", CFG_FLOAT, CFG_RESULT, AT(pretrain.mask_rate), "0.15", 0.01, 0.9, "share of tokens that are masked-token targets"},

    TRAIN_ROWS("helpful", helpful.t, "0", "2", "5e-4", COSINE),
    {"helpful.format_share", CFG_FLOAT, CFG_RESULT, AT(helpful.format_share), "0.3", 0, 1, "share of rows made from harm_qa and preference files as critique and judge demonstrations; data.format rows are all used"},
    {"helpful.judge_weight", CFG_FLOAT, CFG_RESULT, AT(helpful.judge_weight), "1", 0.01, 1000, "loss weight of a demonstrated judgement: it is one token, beside twenty of a reply"},
    {"helpful.reason_first", CFG_BOOL, CFG_RESULT, AT(helpful.reason_first), "false", 0, 0, "refusals in demonstrations made from harm_qa give their reason before what was asked, not behind it: a reply that ends early, as small models write, then still has one"},

    {"prompts.limit",       CFG_INT,   CFG_RESULT, AT(prompts.limit), "0", 0, BIG, "prompts kept per kind, a seeded sample; 0: all"},
    {"prompts.variants",    CFG_INT,   CFG_RESULT, AT(prompts.variants), "0", 0, 100, "augmented variants per training prompt"},
    {"prompts.slots",       CFG_BOOL,  CFG_RESULT, AT(prompts.slots), "true", 0, 0, "augment: slot templates"},
    {"prompts.synonyms",    CFG_BOOL,  CFG_RESULT, AT(prompts.synonyms), "true", 0, 0, "augment: synonyms"},
    {"prompts.wrappers",    CFG_BOOL,  CFG_RESULT, AT(prompts.wrappers), "true", 0, 0, "augment: politeness, persona and hypothetical wrappers"},

    SAMPLE_ROWS("revise", revise.s, "1", "64"),
    {"revise.redteam",         CFG_INT,  CFG_RESULT, AT(revise.redteam), "0", -1, 1e7, "red-team dialogues; 0: one per prompt, -1: none"},
    {"revise.benign",          CFG_INT,  CFG_RESULT, AT(revise.benign), "0", -1, 1e7, "benign dialogues; 0: one per prompt, -1: none"},
    {"revise.repeats",         CFG_INT,  CFG_RESULT, AT(revise.repeats), "1", 1, 1000, "dialogues per prompt"},
    {"revise.rounds",          CFG_INT,  CFG_RESULT, AT(revise.rounds), "1", 1, 4, "critique and revision rounds at most"},
    {"revise.critique_tokens", CFG_INT,  CFG_RESULT, AT(revise.critique_tokens), "96", 4, 4096, "longest critique; then the verdict is forced"},
    {"revise.mode",            CFG_ENUM, CFG_RESULT, AT(revise.mode), "one|two", 0, 0, "critique and revision in one generation, or two calls (reference); headings (model.prompts) always take two"},
    {"revise.critique",        CFG_BOOL, CFG_RESULT, AT(revise.critique), "true", 0, 0, "false: replies are kept as they are (control)"},
    {"revise.retries",         CFG_INT,  CFG_RESULT, AT(revise.retries), "0", 0, 2, "times a rejected revision is asked for again, under the same principle; then its reject code stands"},
    {"revise.audit",           CFG_INT,  CFG_RESULT, AT(revise.audit), "50", 0, 1e6, "rejects of each code written to rejects.jsonl for people to look at"},
    {"revise.min_words",       CFG_INT,  CFG_RESULT, AT(revise.min_words), "5", 0, 1000, "reject SHORT below"},
    {"revise.need_quote",      CFG_BOOL, CFG_RESULT, AT(revise.need_quote), "true", 0, 0, "reject UNGROUNDED critiques that quote nothing"},
    {"revise.dedup",           CFG_BOOL, CFG_RESULT, AT(revise.dedup), "true", 0, 0, "reject DUP: a reply accepted before for the same prompt"},
    {"revise.evasive_share",   CFG_FLOAT, CFG_RESULT, AT(revise.evasive_share), "0.1", 0, 1, "reject EVASIVE: stock refusals, without a reason or an offer, beyond this share of what is accepted; 0: every one"},
    {"revise.gate",            CFG_BOOL, CFG_RESULT, AT(revise.gate), "true", 0, 0, "a revision must beat the reply in the judge's eyes, in both orders"},
    {"revise.gate_min",        CFG_FLOAT, CFG_RESULT, AT(revise.gate_min), "0.6", 0, 1, "least probability that the revision is better"},
    {"revise.max_similar",     CFG_FLOAT, CFG_RESULT, AT(revise.max_similar), "0.95", 0, 1, "reject SAME above"},
    {"revise.min_similar",     CFG_FLOAT, CFG_RESULT, AT(revise.min_similar), "0.05", 0, 1, "reject FAR below; 0: off"},

    TRAIN_ROWS("sl", sl.t, "0", "1", "2.5e-4", COSINE),
    {"sl.start",         CFG_ENUM,  CFG_RESULT, AT(sl.start), "helpful|base", 0, 0, "model the stage starts from"},
    {"sl.revise_share",  CFG_FLOAT, CFG_RESULT, AT(sl.revise_share), "0.5", 0, 1, "share of tokens: accepted revisions"},
    {"sl.keep_share",    CFG_FLOAT, CFG_RESULT, AT(sl.keep_share), "0.15", 0, 1, "share: replies the critique found fine"},
    {"sl.helpful_share", CFG_FLOAT, CFG_RESULT, AT(sl.helpful_share), "0.3", 0, 1, "share: helpful dialogue"},
    {"sl.format_share",  CFG_FLOAT, CFG_RESULT, AT(sl.format_share), "0.05", 0, 1, "share: critique and judge demonstrations again"},
    {"sl.variants",      CFG_INT,   CFG_RESULT, AT(sl.variants), "0", 0, 100, "augmented variants of each instruction, with its answer, among the helpful dialogue: so that a request asked politely, or for a friend, is nothing new, which a model that learns to decline takes for harmful"},

    SAMPLE_ROWS("pairs", pairs.s, "1", "64"),
    {"pairs.redteam", CFG_INT, CFG_RESULT, AT(pairs.redteam), "0", -1, 1e7, "pairs from red-team prompts; 0: one per prompt, -1: none"},
    {"pairs.benign",  CFG_INT, CFG_RESULT, AT(pairs.benign), "0", -1, 1e7, "pairs from benign prompts; 0: one per prompt, -1: none"},
    {"pairs.repeats", CFG_INT, CFG_RESULT, AT(pairs.repeats), "1", 1, 1000, "pairs per prompt"},

    {"judge.kind",               CFG_ENUM,  CFG_RESULT, AT(judge.kind), "own|remote", 0, 0, "who judges pairs (label, revise.gate, eval.judge): the helpful model, or a service over HTTP, judge.remote.*"},
    {"judge.own.reasons",        CFG_INT,   CFG_RESULT, AT(judge.reasons), "0", 0, 16, "own judge: so many times it writes reasons before it decides, for each order; the probabilities are averaged; 0: it decides at once"},
    {"judge.own.reason_tokens",  CFG_INT,   CFG_RESULT, AT(judge.reason_tokens), "128", 4, 100000, "longest reasons; then the verdict is forced"},
    {"judge.remote.api",         CFG_ENUM,  CFG_RESULT, AT(judge.api), "openai|anthropic", 0, 0, "what the service speaks: POST /v1/chat/completions or /v1/messages"},
    {"judge.remote.url",         CFG_STR,   CFG_RESULT, AT(judge.url), "", 0, 0, "its address, such as https://api.example.com/v1; the api's path is added"},
    {"judge.remote.model",       CFG_STR,   CFG_RESULT, AT(judge.model), "", 0, 0, "name of the model it should use"},
    {"judge.remote.key_env",     CFG_STR,   CFG_RUNTIME, AT(judge.key_env), "", 0, 0, "NAME of the environment variable that holds the key, never the key itself; empty: no key"},
    {"judge.remote.key_header",  CFG_ENUM,  CFG_RUNTIME, AT(judge.key_header), "auto|bearer|x-api-key", 0, 0, "header the key goes into; auto: bearer for openai, x-api-key for anthropic"},
    {"judge.remote.logprobs",    CFG_BOOL,  CFG_RESULT, AT(judge.logprobs), "true", 0, 0, "openai: ask for log-probs, which make a soft label of one answer; false where the service refuses them"},
    {"judge.remote.votes",       CFG_INT,   CFG_RESULT, AT(judge.votes), "1", 1, 64, "answers per question and order where no log-probs come"},
    {"judge.remote.temperature", CFG_FLOAT, CFG_RESULT, AT(judge.temperature), "0", -1, 2, "sampling temperature asked for; votes need one above 0; -1: not sent"},
    {"judge.remote.max_tokens",  CFG_INT,   CFG_RESULT, AT(judge.max_tokens), "8", 1, 100000, "longest answer, tokens; more for models that think first"},
    {"judge.remote.cache",       CFG_STR,   CFG_RUNTIME, AT(judge.cache), "", 0, 0, "folder of answers, by hash of the question; empty: <run.out>/judge"},
    {"judge.remote.timeout_s",   CFG_FLOAT, CFG_RUNTIME, AT(judge.timeout_s), "60", 0.05, 3600, "seconds one request may take"},
    {"judge.remote.retries",     CFG_INT,   CFG_RUNTIME, AT(judge.retries), "6", 0, 100, "times a question is asked again after 408, 409, 425, 429, 5xx, a lost connection or half an answer"},
    {"judge.remote.backoff_s",   CFG_FLOAT, CFG_RUNTIME, AT(judge.backoff_s), "0.5", 0, 30, "first wait before asking again, seconds; doubles up to 30; Retry-After goes first"},
    {"judge.remote.concurrency", CFG_INT,   CFG_RUNTIME, AT(judge.concurrency), "8", 1, 256, "requests at a time"},
    {"judge.remote.requests_per_minute", CFG_FLOAT, CFG_RUNTIME, AT(judge.per_minute), "0", 0, 1e6, "rate limit of ours; 0: none"},
    {"judge.remote.price_in",    CFG_FLOAT, CFG_RUNTIME, AT(judge.price_in), "0", 0, 1e6, "USD per million tokens read"},
    {"judge.remote.price_out",   CFG_FLOAT, CFG_RUNTIME, AT(judge.price_out), "0", 0, 1e6, "USD per million tokens written"},
    {"judge.remote.max_usd",     CFG_FLOAT, CFG_RUNTIME, AT(judge.max_usd), "0", 0, 1e9, "a stage stops before its answers cost more (exit 6; they are kept); 0: no limit"},
    {"judge.remote.max_requests", CFG_INT,  CFG_RUNTIME, AT(judge.max_requests), "0", 0, BIG, "the same, in answers"},
    {"judge.remote.max_total_tokens", CFG_INT, CFG_RUNTIME, AT(judge.max_total_tokens), "0", 0, BIG, "the same, in tokens read and written"},

    {"label.clamp",    CFG_FLOAT, CFG_RESULT, AT(label.clamp), "6", 0.1, 100, "log-odds per principle are clamped to +- this"},
    {"label.t_cal",    CFG_FLOAT, CFG_RESULT, AT(label.t_cal), "1", 0, 100, "calibration temperature of the soft label; 0: fitted on half of the known answers, the judge is measured on the others"},
    {"label.abstain",  CFG_FLOAT, CFG_RESULT, AT(label.abstain), "0.05", 0, 0.5, "closer to 0.5 than this and orders disagreeing: no label (TIE)"},
    {"label.ensemble", CFG_BOOL,  CFG_RESULT, AT(label.ensemble), "true", 0, 0, "all principles of the deciding authority level; false: one drawn per pair"},
    {"label.max_q",    CFG_FLOAT, CFG_RESULT, AT(label.max_q), "0", 0, 1, "soft labels are cut to [1 - max_q, max_q]; 0: 0.6 with judge.own.reasons, else 1"},
    {"label.min_tests", CFG_FLOAT, CFG_RESULT, AT(label.min_tests), "0", 0, 1, "share of a principle's own tests that the judge must pass, in both orders, or it labels nothing; 0: not asked; 0.8 is what 'constitution test' asks"},
    {"label.release",  CFG_ENUM,  CFG_RESULT, AT(label.release), "checked|always", 0, 0, "checked: labels that flip with the order (above 0.1 of the decided), are ill calibrated (ECE above 0.1) or prefer what is longer (by more than 0.1) are not released (exit 6); always: released whatever the judge report says"},
    {"label.gates",    CFG_LIST,  CFG_RESULT, AT(label.gates), "", 0, 0, "conditions on metrics of this stage, such as 'label.flip_rate <= 0.1'; one missed: the labels are not released (exit 6)"},

    TRAIN_ROWS("pm", pm.t, "0", "1", "5e-4", COSINE),
    {"pm.n_layer",       CFG_INT,   CFG_RESULT, AT(pm.n_layer), "0", 0, 1000, "layers of the preference model: the first ones of SL-CAI; 0: all"},
    {"pm.holdout",       CFG_FLOAT, CFG_RESULT, AT(pm.holdout), "0.15", 0, 0.9, "share of pairs held out"},
    {"pm.helpful_share", CFG_FLOAT, CFG_RESULT, AT(pm.helpful_share), "0.34", 0, 0.9, "share of pairs that are helpfulness preferences"},
    {"pm.center",        CFG_FLOAT, CFG_RESULT, AT(pm.center), "0", 0, 1, "weight of (r_a + r_b)^2"},
    {"pm.margin",        CFG_FLOAT, CFG_RESULT, AT(pm.margin), "0", 0, 100, "scores of a pair must differ by this much more than the label asks, times its certainty 2q - 1"},
    {"pm.heads",         CFG_ENUM,  CFG_RESULT, AT(pm.heads), "one|principles", 0, 0, "principles: a head for each principle that labels, on its own labels, and one for helpfulness; the score is their weighted sum"},
    {"pm.ensemble",      CFG_INT,   CFG_RESULT, AT(pm.ensemble), "1", 1, 16, "heads on bootstrap draws of the pairs; the score is their mean, the summary says where they disagree"},
    {"pm.length_control", CFG_BOOL, CFG_RESULT, AT(pm.length_control), "false", 0, 0, "train on what a fit of the labels by length alone leaves unexplained"},
    {"pm.calibrate",     CFG_BOOL,  CFG_RESULT, AT(pm.calibrate), "false", 0, 0, "divide scores by the temperature that fits half of the held-out pairs; figures are of the other half"},
    {"pm.shuffle",       CFG_INT,   CFG_RESULT, AT(pm.shuffle), "0", 0, 1000, "labels are shuffled among pairs after sides were randomised (control): which shuffle; 0: none"},
    {"pm.untrained",     CFG_INT,   CFG_RESULT, AT(pm.untrained), "0", 0, 1000, "leave the preference model untrained (control): with which random head, an even one being the mirror image of the one before; 0: train"},

    OPTIM_ROWS("rl", rl.t, "60", "1024", "3e-5", LINEAR),
    {"rl.method",        CFG_ENUM,  CFG_RESULT, AT(rl.method), "ppo|grpo|rloo|reinforce_pp|reinforce_pp_baseline|dpo", 0, 0, "ppo: value model, KL in the reward; grpo: advantages within groups of replies to one prompt, KL in the loss; rloo: groups, KL in the reply's reward, baseline the others' mean; reinforce_pp: KL in the reward, returns whitened, no value model; reinforce_pp_baseline: the same of whole replies less their group's mean; dpo: the labelled pairs, no rollouts (section dpo)"},
    {"rl.temperature",   CFG_FLOAT, CFG_RESULT, AT(rl.s.temperature), "1", 0.01, 100, "sampling temperature of rollouts, and of every log-prob of the update"},
    {"rl.max_new",       CFG_INT,   CFG_RESULT, AT(rl.s.max_new), "64", 1, 1e6, "longest reply, tokens"},
    {"rl.rollouts",      CFG_INT,   CFG_RESULT, AT(rl.rollouts), "96", 2, 1e6, "replies per update"},
    {"rl.n_epoch",       CFG_INT,   CFG_RESULT, AT(rl.epochs), "4", 1, 100, "passes over the rollouts per update"},
    {"rl.n_minibatch",   CFG_INT,   CFG_RESULT, AT(rl.minibatches), "2", 1, 1000, "optimizer steps per pass"},
    {"rl.rollout_weights", CFG_ENUM, CFG_RESULT, AT(rl.rollout_weights), "own|bf16|int8", 0, 0, "weights that rollouts are generated from: the policy's own, or rounded copies, whose log-probs are then the old ones (metric rollout_gap)"},
    {"rl.group",         CFG_INT,   CFG_RESULT, AT(rl.group), "8", 2, 1e6, "methods with groups: replies per prompt; rl.rollouts is a multiple of it"},
    {"rl.group_scale",   CFG_ENUM,  CFG_RESULT, AT(rl.group_scale), "group|batch|none", 0, 0, "grpo: what divides advantages: the group's deviation (which divides rl.beta by it, too), that of all replies of the update, nothing (Dr. GRPO)"},
    {"rl.group_eps",     CFG_FLOAT, CFG_RESULT, AT(rl.group_eps), "1e-4", 0, 100, "grpo: added to the deviation"},
    {"rl.kl_by_ratio",   CFG_BOOL,  CFG_RESULT, AT(rl.kl_by_ratio), "true", 0, 0, "grpo: the loss's KL is weighted by the ratio to the rollout's policy, which makes its gradient that of the KL"},
    {"rl.aggregate",     CFG_ENUM,  CFG_RESULT, AT(rl.aggregate), "auto|token_mean|seq_mean_token_sum|seq_mean_token_mean|seq_sum_norm", 0, 0, "how token losses become one; auto: token_mean (ppo, reinforce_pp), seq_mean_token_mean (grpo, rloo); seq_sum_norm: sums over rl.max_new (Dr. GRPO)"},
    {"rl.ratio",         CFG_ENUM, CFG_RESULT, AT(rl.ratio), "auto|token|reply_mean|reply_sum", 0, 0, "whose ratio is clipped: each token's; the reply's, averaged over tokens in the log (GSPO) or not; auto: reply_sum (rloo), token (others)"},
    {"rl.policy_term",   CFG_ENUM, CFG_RESULT, AT(rl.policy_term), "clip|cispo|sapo", 0, 0, "clip: PPO's; cispo: log-probs weighted by ratios, which are cut at rl.clip_high (5, not 0.2) and have no gradient; sapo: a soft gate"},
    {"rl.clip_delta",    CFG_FLOAT, CFG_RESULT, AT(rl.clip_delta), "0", 0, 1000, "upper bound of the ratio where it is not clipped either; 0: off"},
    {"rl.redteam_share", CFG_FLOAT, CFG_RESULT, AT(rl.redteam_share), "0.5", 0, 1, "share of red-team prompts among rollouts"},
    {"rl.beta",          CFG_FLOAT, CFG_RESULT, AT(rl.beta), "0.05", 0, 100, "KL penalty to SL-CAI, per nat: of the loss (grpo) or the reward (others)"},
    {"rl.gamma",         CFG_FLOAT, CFG_RESULT, AT(rl.gamma), "1", 0, 1, "ppo, reinforce_pp: discount"},
    {"rl.lambda",        CFG_FLOAT, CFG_RESULT, AT(rl.lambda), "0.95", 0, 1, "ppo: GAE lambda"},
    {"rl.clip_low",      CFG_FLOAT, CFG_RESULT, AT(rl.clip_low), "0.2", 0, 10, "ratio clip below 1"},
    {"rl.clip_high",     CFG_FLOAT, CFG_RESULT, AT(rl.clip_high), "0.2", 0, 10, "ratio clip above 1"},
    {"rl.dual_clip",     CFG_FLOAT, CFG_RESULT, AT(rl.dual_clip), "0", 0, 100, "dual clip constant; 0: off"},
    {"rl.value_clip",    CFG_FLOAT, CFG_RESULT, AT(rl.value_clip), "0.2", 0, 100, "ppo: value clip; 0: off"},
    {"rl.value_weight",  CFG_FLOAT, CFG_RESULT, AT(rl.value_weight), "0.1", 0, 100, "ppo: c_v, weight of the value loss"},
    {"rl.value_lr",      CFG_FLOAT, CFG_RESULT, AT(rl.value_lr), "1", 0, 1000, "ppo: learning rate of the value model relative to the policy's"},
    {"rl.value_unit",    CFG_ENUM,  CFG_RESULT, AT(rl.value_unit), "raw|score", 0, 0, "ppo: what the value model's output means, which begins as the preference model's: a return as it is, or, less the mean and over the deviation that scores are normalised by, which spares the first updates a mean far from 0"},
    {"rl.value_warmup",  CFG_INT,   CFG_RESULT, AT(rl.value_warmup), "0", 0, 1e6, "ppo: first updates, which train the value model alone"},
    {"rl.mix",           CFG_FLOAT, CFG_RESULT, AT(rl.mix), "0", 0, 1000, "pre-training mix: weight of the next-token loss on data.pretrain beside the policy's; 0: off"},
    {"rl.no_end",        CFG_ENUM,  CFG_RESULT, AT(rl.no_end), "replace|add|keep", 0, 0, "replies cut by length: their normalised score becomes rl.no_end_score, has it added, or stays"},
    {"rl.no_end_score",  CFG_FLOAT, CFG_RESULT, AT(rl.no_end_score), "-1", -100, 100, "see rl.no_end; normalised units"},
    {"rl.score_clip",    CFG_FLOAT, CFG_RESULT, AT(rl.score_clip), "10", 0, 1000, "normalised score is clipped to +- this; 0: off"},
    {"rl.kl_target",     CFG_FLOAT, CFG_RESULT, AT(rl.kl_target), "0", 0, 1000, "adaptive beta: nats per reply aimed at; 0: fixed beta"},
    {"rl.kl_horizon",    CFG_FLOAT, CFG_RESULT, AT(rl.kl_horizon), "10000", 1, BIG, "adaptive beta: horizon, episodes"},
    {"rl.kl_stop",       CFG_FLOAT, CFG_RESULT, AT(rl.kl_stop), "25", 0, 1e6, "nats per reply at which training stops; 0: off"},
    {"rl.whiten_rewards", CFG_BOOL, CFG_RESULT, AT(rl.whiten_rewards), "false", 0, 0, "ppo: whiten rewards"},
    {"rl.whiten_advantages", CFG_BOOL, CFG_RESULT, AT(rl.whiten_advantages), "true", 0, 0, "ppo, reinforce_pp: whiten advantages over all tokens of an update"},
    {"rl.whiten_unbiased", CFG_BOOL, CFG_RESULT, AT(rl.whiten_unbiased), "false", 0, 0, "variances of whitening by n - 1 instead of n"},
    {"rl.guard.every",    CFG_INT,   CFG_RESULT, AT(rl.guard.every), "10", 0, BIG, "updates between checks for over-optimisation, on prompts kept for choosing (data.dev_share) or, when there are none, for evaluation: the run stops and gets its best checked weights back when the score rises while the judge's verdict falls, or replies leave a bound of rl.guard; 0: off"},
    {"rl.guard.prompts",  CFG_INT,   CFG_RESULT, AT(rl.guard.prompts), "512", 1, BIG, "prompts of a check, at most"},
    {"rl.guard.patience", CFG_INT,   CFG_RESULT, AT(rl.guard.patience), "3", 1, 1000, "checks in a row of a higher score and a worse verdict (by more than a standard error) than the best check's"},
    {"rl.guard.top4",     CFG_FLOAT, CFG_RESULT, AT(rl.guard.top4), "0.1", 0, 1, "bound: share of replies that hold the same four words in a row. All shares count when their 95 % interval lies above the bound and they have doubled since SL-CAI; 0: not looked at, as of the others"},
    {"rl.guard.duplicates", CFG_FLOAT, CFG_RESULT, AT(rl.guard.duplicates), "0.01", 0, 1, "bound: replies equal to one given to another prompt"},
    {"rl.guard.evasive",  CFG_FLOAT, CFG_RESULT, AT(rl.guard.evasive), "0.03", 0, 1, "bound: stock refusals without reason or alternative"},
    {"rl.guard.comfort",  CFG_FLOAT, CFG_RESULT, AT(rl.guard.comfort), "0.1", 0, 1, "bound: stock phrases of comfort"},
    {"rl.guard.refused",  CFG_FLOAT, CFG_RESULT, AT(rl.guard.refused), "0.05", 0, 1, "bound: harmless requests that are refused"},
    {"rl.guard.cut",      CFG_FLOAT, CFG_RESULT, AT(rl.guard.cut), "0.02", 0, 1, "bound: replies cut at rl.max_new"},
    {"rl.guard.length",   CFG_FLOAT, CFG_RESULT, AT(rl.guard.length), "0.3", 0, 100, "bound: relative change of the mean length of replies that end, since SL-CAI, either way"},
    {"rl.guard.entropy",  CFG_FLOAT, CFG_RESULT, AT(rl.guard.entropy), "0.5", 0, 1, "bound: least share of SL-CAI's entropy per token"},

    TRAIN_ROWS("dpo", dpo.t, "0", "1", "3e-5", LINEAR),
    {"dpo.beta",            CFG_FLOAT, CFG_RESULT, AT(dpo.beta), "0.1", 1e-6, 1000, "how far the policy may leave SL-CAI: larger is nearer"},
    {"dpo.loss",            CFG_ENUM,  CFG_RESULT, AT(dpo.loss), "sigmoid|ipo|robust|hinge", 0, 0, "sigmoid: logistic of beta times the log-ratios' difference; ipo: its squared distance from 1/(2 beta); robust: sigmoid, unbiased where the share dpo.label_smoothing of labels is flipped; hinge: what beta times the difference lacks to 1"},
    {"dpo.label_smoothing", CFG_FLOAT, CFG_RESULT, AT(dpo.label_smoothing), "0", 0, 0.5, "share of labels taken to be wrong, besides what soft labels say: sigmoid is then conservative DPO, robust undoes them (below 0.5)"},
    {"dpo.average",         CFG_BOOL,  CFG_RESULT, AT(dpo.average), "false", 0, 0, "log-ratios per token instead of sums over the reply"},

    TRAIN_ROWS("classifier", classifier.t, "0", "3", "5e-4", COSINE),
    {"classifier.holdout", CFG_FLOAT, CFG_RESULT, AT(classifier.holdout), "0.3", 0.05, 0.9, "share of labelled replies held out: half validation, half test"},

    SAMPLE_ROWS("eval", eval.s, "0.7", "64"),
    {"eval.samples",      CFG_INT,  CFG_RESULT, AT(eval.samples), "1", 1, 1000, "replies per prompt"},
    {"eval.split",        CFG_ENUM, CFG_RESULT, AT(eval.split), "eval|dev", 0, 0, "prompts that are answered: those kept for evaluation, or those of data.dev_share, by which settings may be chosen"},
    {"eval.limit",        CFG_INT,  CFG_RESULT, AT(eval.limit), "0", 0, BIG, "prompts per kind; 0: all"},
    {"eval.choice_limit", CFG_INT,  CFG_RESULT, AT(eval.choice_limit), "0", 0, BIG, "multiple choice items; 0: all"},
    {"eval.best_of",      CFG_INT,  CFG_RESULT, AT(eval.bon), "0", 0, 1024, "best-of-n of SL-CAI by PM, model best_of: the baseline without RL; 0: off"},
    {"eval.judge",        CFG_BOOL, CFG_RESULT, AT(eval.judge), "false", 0, 0, "win rates between the models' replies, by the judge that labels pairs (judge.kind), both orders"},
    {"eval.gold",         CFG_STR,  CFG_RUNTIME, AT(eval.gold), "", 0, 0, "program that scores replies of the tiny world; empty: dikast-gold beside dikast"},
    {"eval.base",         CFG_STR,  CFG_RUNTIME, AT(eval.base), "", 0, 0, "run whose metrics gates may use as base.*"},
    {"eval.gates",        CFG_LIST, CFG_RUNTIME, AT(eval.gates), "", 0, 0, "conditions on metrics, such as 'eval.rl.harm.named <= 0.1'; one missed: exit 6"},
};
// clang-format on
const int run_key_count = COUNT_OF(run_keys);

bool run_config_load(RunConfig *c, const char *path, const char *const *set, int n_set, Str *report, Error *err) {
    *c = (RunConfig){0};
    if (!config_load(c, run_keys, run_key_count, path, set, n_set, report, err)) return false;
    Columns names;
    if (columns_parse(&names, (const char *const *)c->data.columns.item, c->data.columns.n, "data.columns", err)) {
        columns_release(&names);
        return true;
    }
    run_config_release(c);
    return false;
}

int run_config_zero(const RunConfig *c) {
    static const int stage[] = {0, 1, 2, 0, 1}; /* as the key's row spells them */
    return stage[c->dist.zero];
}

void run_config_release(RunConfig *c) { config_release(c, run_keys, run_key_count); }
