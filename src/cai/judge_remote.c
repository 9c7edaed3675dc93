#include "cai/judge_remote.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/io.h"
#include "cai/remote.h"
#include "cai/remote_api.h"
#include "cai/remote_cache.h"
#include "cai/remote_rules.h"

/* Longest wait that a service may ask for: beyond it a person should know. */
static const double MAX_ASKED_S = 600, POLL_S = 0.2;
enum { MIN_SECRET = 8, MAX_KEY = 4096 };

typedef struct {
    int item, vote, n_first, n_second;
    bool swapped, reminded, done, soft, rates; /* rates: one reply, 1 to 5 */
    double l;                                  /* log-odds; of a rating the sum of the votes, then their mean */
    JudgeMiss miss;                            /* of the last vote that was void */
} Question;

/* One question under way: with the service, or waiting to be asked (again). */
typedef struct {
    Question *q; /* NULL: idle */
    bool flying, again;
    int attempt;
    int64_t answers; /* of the service, when the question was last put off */
    double not_before;
    Hash key;
    Str body;
    Spent bound;
} Lane;

struct RemoteJudge {
    const StageCtx *ctx;
    RequestForm form;
    int votes;
    Str url, cache, auth;
    char *secret; /* the key, where it is long enough to be one */
    const char *header[2];
    Http *http;
    Lane *lane;
    int n_lane, n_flying;
    Rng rng;
    RateBucket bucket;
    Budget budget;
    double pause_until, busy; /* busy: share of the last requests that were turned away, older ones counting less */
    Spent spent, bound;       /* of answers used; at most, of those under way */
    int64_t n_question, n_done, n_soft, n_reminded, n_miss[MISS_COUNT];
    int64_t n_sent, n_again, n_cached;
};

/* -- configuration ------------------------------------------------------------------------------------------------- */
static bool variable_name(const char *s) {
    size_t n = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");
    return n > 0 && n <= 64 && !s[n] && !(s[0] >= '0' && s[0] <= '9');
}

static const char *key_refused(const char *key) {
    if (!key || !key[0]) return "is not set";
    size_t n = 0;
    for (; key[n]; n++)
        if (key[n] <= ' ' || key[n] > '~' || key[n] == '"' || key[n] == '\\')
            return "holds a blank, a quote or a character that is not ASCII: it should be the key alone";
    return n > MAX_KEY ? "is longer than any key" : NULL;
}

bool remote_judge_check(const RunConfig *c, bool key, Error *err) {
    if (c->judge.kind == JUDGE_OWN) return true;
    if (c->judge.reasons > 0)
        return error_set(err, ERR_CONFIG,
                         "judge.own.reasons is of the own judge; a service that should think first gets room for it by "
                         "judge.remote.max_tokens");
    const char *name = c->judge.key_env;
    if (http_absent()) return error_set(err, ERR_CONFIG, "judge.kind remote: %s", http_absent());
    /* Whoever writes the key itself here by mistake does not want to see it again. */
    if (name[0] && !variable_name(name))
        return error_set(
            err, ERR_CONFIG,
            "judge.remote.key_env is not the name of an environment variable (capital letters, digits, _). "
            "The key itself belongs into that variable: remove it from the configuration");
    if (!c->judge.url[0] || !c->judge.model[0])
        return error_set(err, ERR_CONFIG, "judge.kind remote needs judge.remote.%s", c->judge.url[0] ? "model" : "url");
    const char *why = request_url_refused(c->judge.url, name[0] != 0);
    if (why) return error_set(err, ERR_CONFIG, "judge.remote.url: %s", why);
    if (c->judge.votes > 1 && c->judge.temperature == 0)
        return error_set(err, ERR_CONFIG,
                         "judge.remote.votes %lld at temperature 0 are one vote counted %lld times: set "
                         "judge.remote.temperature to 1, or votes to 1",
                         (long long)c->judge.votes, (long long)c->judge.votes);
    if (c->judge.max_usd > 0 && c->judge.price_in <= 0 && c->judge.price_out <= 0)
        return error_set(err, ERR_CONFIG,
                         "judge.remote.max_usd needs prices: set judge.remote.price_in and judge.remote.price_out, USD "
                         "per million tokens");
    why = key && name[0] ? key_refused(getenv(name)) : NULL;
    return !why ||
           error_set(err, ERR_CONFIG, "the environment variable %s, which judge.remote.key_env names, %s", name, why);
}

static void set_key(RemoteJudge *r, const RunConfig *c) {
    static const char *const form[] = {"Authorization: Bearer ", "x-api-key: "};
    int at = c->judge.key_header ? (int)c->judge.key_header - 1 : (int)r->form.api;
    const char *key = c->judge.key_env[0] ? getenv(c->judge.key_env) : NULL;
    if (!key) return;
    str_put(&r->auth, form[at]);
    str_put(&r->auth, key);
    if (strlen(key) >= MIN_SECRET) r->secret = mem_str(key);
}

bool remote_judge_open(RemoteJudge **out, const StageCtx *ctx, Error *err) {
    const RunConfig *c = ctx->cfg;
    *out = NULL;
    if (!remote_judge_check(c, true, err)) return false;
    RemoteJudge *r = mem_alloc(sizeof *r);
    r->ctx = ctx;
    r->form = (RequestForm){(RemoteApi)c->judge.api, c->judge.model, c->judge.temperature, c->judge.max_tokens,
                            c->judge.logprobs};
    r->votes = (int)c->judge.votes;
    r->n_lane = (int)c->judge.concurrency;
    r->lane = mem_alloc((size_t)r->n_lane * sizeof *r->lane);
    r->rng = (Rng){ctx->seed, RNG_RETRY};
    r->bucket = rate_bucket(c->judge.per_minute, fmin(r->n_lane, c->judge.per_minute / 60), now_s());
    r->budget = (Budget){c->judge.max_usd, c->judge.price_in, c->judge.price_out, c->judge.max_requests,
                         c->judge.max_total_tokens};
    request_url(&r->url, r->form.api, c->judge.url);
    if (c->judge.cache[0])
        str_put(&r->cache, c->judge.cache);
    else
        str_printf(&r->cache, "%s/judge", c->run.out);
    set_key(r, c);
    *out = r;
    return true;
}

void remote_judge_close(RemoteJudge *r) {
    if (!r) return;
    http_close(r->http);
    for (int i = 0; i < r->n_lane; i++) str_release(&r->lane[i].body);
    if (r->auth.s) explicit_bzero(r->auth.s, r->auth.n);
    if (r->secret) explicit_bzero(r->secret, strlen(r->secret));
    free(r->secret);
    free(r->lane);
    str_release(&r->url);
    str_release(&r->cache);
    str_release(&r->auth);
    free(r);
}

/* -- questions ----------------------------------------------------------------------------------------------------- */
static void finish_question(RemoteJudge *r, Question *q) {
    q->done = true;
    r->n_done++;
    r->n_soft += q->soft;
    if (!q->soft && q->rates && q->n_first > 0)
        q->l /= q->n_first;
    else if (!q->soft && q->n_first + q->n_second > 0)
        q->l = log((q->n_first + 0.5) / (q->n_second + 0.5));
    if (q->soft || q->n_first + q->n_second > 0)
        q->miss = MISS_NONE;
    else
        r->n_miss[q->miss]++;
}

static void take_answer(RemoteJudge *r, Question *q, const Answer *a, size_t body_bytes) {
    Spent most = budget_bound(body_bytes, r->form.max_tokens);
    r->spent.requests++;
    r->spent.tokens_in += a->tokens_in >= 0 ? a->tokens_in : most.tokens_in;
    r->spent.tokens_out += a->tokens_out >= 0 ? a->tokens_out : most.tokens_out;
    bool verdict = q->rates ? a->digit > 0 && a->kind != ANSWER_REFUSED : a->kind == ANSWER_VERDICT, last = false;
    if (!verdict && a->kind != ANSWER_TOO_LONG && !q->reminded) {
        q->reminded = true;
        r->n_reminded++;
        return;
    }
    if (verdict && q->rates) {
        q->soft = last = !isnan(a->mean);
        q->l = q->soft ? a->mean : q->l + a->digit;
        q->n_first++;
    } else if (verdict && a->soft) {
        q->soft = last = true; /* the service gave the odds themselves */
        q->l = a->l;
    } else if (verdict)
        a->first ? q->n_first++ : q->n_second++;
    else {
        q->miss = a->kind == ANSWER_REFUSED    ? MISS_REFUSED
                  : a->kind == ANSWER_TOO_LONG ? MISS_CONTEXT
                                               : MISS_UNREADABLE;
        last = a->kind == ANSWER_TOO_LONG;
    }
    q->reminded = false;
    if (++q->vote >= r->votes || last) finish_question(r, q);
}

/* Goes on with a question for as long as its answers are there. False: the one that body and key now ask for is not. */
static bool advance(RemoteJudge *r, Question *q, const JudgeItem *item, Str *body, Hash *key) {
    while (!q->done) {
        Json *root;
        const Json *answer;
        int status;
        Answer a;
        request_body(body, &r->form, &item[q->item], q->swapped, q->reminded);
        *key = cache_key(str_get(&r->url), body->s, body->n, q->vote);
        if (!cache_get(&root, &answer, &status, str_get(&r->cache), *key)) return false;
        answer_parse(&a, r->form.api, status, answer);
        json_release(root);
        if (a.kind == ANSWER_BROKEN) return false;
        r->n_cached++;
        take_answer(r, q, &a, body->n);
    }
    return true;
}

/* -- requests ------------------------------------------------------------------------------------------------------ */
static bool open_http(RemoteJudge *r, Error *err) {
    int n = 0;
    if (r->http) return true;
    if (!io_make_dirs(str_get(&r->cache), err))
        return error_wrap(err, "judge.remote.cache"); /* before anything is paid for */
    if (r->auth.n) r->header[n++] = r->auth.s;
    if (r->form.api == API_ANTHROPIC) r->header[n++] = "anthropic-version: 2023-06-01";
    const char *url = str_get(&r->url);
    bool direct = !strncasecmp(url, "http:", 5) && !request_url_refused(url, true);
    HttpConfig hc = {url, r->header, n, r->n_lane, r->ctx->cfg->judge.timeout_s, direct};
    return http_open(&r->http, &hc, err);
}

static bool over_budget(const RemoteJudge *r, const char *limit, Error *err) {
    return error_set(
        err, ERR_LIMIT,
        "%s would be passed: %lld answers of %lld + %lld tokens, %.6g USD so far, all kept in %s. Raise it "
        "and run again to go on",
        limit, (long long)r->spent.requests, (long long)r->spent.tokens_in, (long long)r->spent.tokens_out,
        spent_usd(&r->budget, r->spent), str_get(&r->cache));
}

static bool twin_flying(const RemoteJudge *r, const Lane *l) {
    for (int i = 0; i < r->n_lane; i++)
        if (r->lane[i].flying && hash_equal(r->lane[i].key, l->key)) return true;
    return false;
}

static bool turned_away(int status) { return status == 429 || status == 503 || status == 529; }

/* A service that turns many away is asked less at once: of eight lanes that meet one which takes one request at a time,
 * one or two are left; where one in seven is turned away at random, five. */
static int lanes_now(const RemoteJudge *r) {
    double calm = 1 - r->busy;
    return (int)fmax(1, r->n_lane * calm * calm * calm);
}

/* Sends what the lane wants to know, unless it has to wait; *wait is shortened to when it is worth looking again. */
static bool launch(RemoteJudge *r, int slot, const JudgeItem *item, double now, double *wait, Error *err) {
    Lane *l = &r->lane[slot];
    if (r->n_flying >= lanes_now(r)) return true; /* looked at again when one of them lands */
    double until = fmax(l->not_before, r->pause_until) - now;
    if (until <= 0) until = rate_wait(&r->bucket, now);
    if (until > 0) {
        *wait = fmin(*wait, until);
        return true;
    }
    if (l->again && advance(r, l->q, item, &l->body, &l->key)) {
        l->q = NULL;
        *wait = 0;
        return true;
    }
    l->again = twin_flying(r, l); /* the same question is being answered */
    if (l->again) return true;
    const char *limit;
    Spent so_far = {r->spent.requests + r->bound.requests, r->spent.tokens_in + r->bound.tokens_in,
                    r->spent.tokens_out + r->bound.tokens_out};
    l->bound = budget_bound(l->body.n, r->form.max_tokens);
    if (!budget_allows(&r->budget, so_far, l->bound, &limit)) /* what is under way may cost less than it could */
        return r->n_flying > 0 || over_budget(r, limit, err);
    char hex[33], id[48];
    hash_hex(hex, l->key);
    snprintf(id, sizeof id, "dikast-%s", hex);
    if (!open_http(r, err) || !http_post(r->http, slot, id, l->body.s, l->body.n, err)) return false;
    rate_take(&r->bucket);
    r->bound.requests++;
    r->bound.tokens_in += l->bound.tokens_in;
    r->bound.tokens_out += l->bound.tokens_out;
    r->n_flying++;
    r->n_sent++;
    return l->flying = true;
}

/* What the service said, with its status and without the key. */
static void describe(Str *out, const RemoteJudge *r, const HttpReply *reply) {
    Str said = {0};
    if (reply->status == 0)
        str_printf(out, "no answer (%s)", reply->why);
    else {
        answer_error(&said, str_get(&reply->body), reply->body.n);
        str_printf(out, "HTTP %d: %s", reply->status, str_get(&said));
    }
    if (out->s) hide_secret(out->s, r->secret);
    str_release(&said);
}

static bool fatal(const RemoteJudge *r, const HttpReply *reply, Error *err) {
    const RunConfig *c = r->ctx->cfg;
    Str said = {0};
    describe(&said, r, reply);
    int s = reply->status;
    error_set(err, ERR_NET, "judge: POST %s: %s", str_get(&r->url), str_get(&said));
    str_release(&said);
    const char *advice = s == 401 || s == 403
                             ? "look at the key, in the environment variable that judge.remote.key_env names"
                         : s == 402            ? "the account has no credit left, says the service"
                         : s == 404            ? "look at judge.remote.url and judge.remote.model"
                         : s >= 300 && s < 400 ? "redirections are not followed: set judge.remote.url to where it leads"
                                               : "look at judge.remote.api, url and model";
    Error cause = *err;
    return error_set(err, ERR_NET, "%.700s (%s%s%s). Answers so far are kept in %s", cause.msg, advice,
                     (s == 401 || s == 403) && c->judge.key_env[0] ? ": " : "",
                     (s == 401 || s == 403) ? c->judge.key_env : "", str_get(&r->cache));
}

/* One that answers others meanwhile is not given up on: the count of a question begins again. */
static void note_busy(const RemoteJudge *r, Lane *l, int status) {
    if (!turned_away(status)) return;
    if (r->spent.requests > l->answers) l->attempt = 0;
    l->answers = r->spent.requests;
}

/* Not now: the question goes on waiting, or the stage fails when it has been asked often enough. */
static bool ask_again(RemoteJudge *r, Lane *l, const HttpReply *reply, double now, Error *err) {
    const RunConfig *c = r->ctx->cfg;
    double asked = retry_after_ms(reply->retry_after_ms);
    if (asked < 0) asked = retry_after_s(reply->retry_after, reply->date, (int64_t)time(NULL));
    Str said = {0};
    describe(&said, r, reply);
    note_busy(r, l, reply->status);
    bool ok = true;
    if (asked > MAX_ASKED_S)
        ok = error_set(err, ERR_NET,
                       "judge: POST %s: %.300s; it asks to wait %.0f s. Answers so far are kept in %s: run again then",
                       str_get(&r->url), str_get(&said), asked, str_get(&r->cache));
    else if (l->attempt >= c->judge.retries)
        ok = error_set(
            err, ERR_NET,
            "judge: POST %s: asked %d times, at last: %.300s. Answers so far are kept in %s: run again to go on",
            str_get(&r->url), l->attempt + 1, str_get(&said), str_get(&r->cache));
    if (ok) {
        double pause = fmax(asked, backoff_s(c->judge.backoff_s, l->attempt++, r->rng, l->key.lo));
        l->not_before = now + pause;
        l->again = true;
        /* A word to one request is meant for all of them. */
        if (asked > 0) r->pause_until = fmax(r->pause_until, now + asked);
        r->n_again++;
        log_event(r->ctx->log, "judge_again", "%s; again in %.1f s", str_get(&said), pause);
    }
    str_release(&said);
    return ok;
}

static bool land(RemoteJudge *r, int slot, HttpReply *reply, const JudgeItem *item, Error *err) {
    Lane *l = &r->lane[slot];
    Json *root = NULL;
    Error unread = {0};
    Answer a = {.kind = ANSWER_BROKEN};
    HttpFate fate = http_fate(reply->status, reply->should_retry);
    l->flying = false;
    r->busy += 0.1 * (turned_away(reply->status) - r->busy);
    r->n_flying--;
    r->bound.requests--;
    r->bound.tokens_in -= l->bound.tokens_in;
    r->bound.tokens_out -= l->bound.tokens_out;
    if (reply->status > 0 &&
        json_parse(&root, str_get(&reply->body), reply->body.n, JSON_INT_AS_REAL | JSON_NUL_OK, "answer", 1, &unread))
        answer_parse(&a, r->form.api, reply->status, root);
    bool ok;
    if (a.kind != ANSWER_BROKEN) {
        ok = cache_put(str_get(&r->cache), l->key, reply->status, root, r->secret, err);
        if (ok) take_answer(r, l->q, &a, l->body.n);
        l->attempt = 0;
        l->not_before = 0;
        if (ok && advance(r, l->q, item, &l->body, &l->key)) l->q = NULL;
    } else
        ok = fate == HTTP_FATAL ? fatal(r, reply, err) : ask_again(r, l, reply, now_s(), err);
    json_release(root);
    str_release(&reply->body);
    return ok;
}

/* -- the loop ------------------------------------------------------------------------------------------------------ */
static void progress(const RemoteJudge *r) {
    log_progress(r->ctx->log, r->n_done, r->n_question, (double)r->n_done, "questions",
                 "requests %lld  again %lld  cached %lld  %.4g USD", (long long)r->n_sent, (long long)r->n_again,
                 (long long)r->n_cached, spent_usd(&r->budget, r->spent));
}

/* Idle lanes take the next open questions in order; every lane that may sends. */
static bool launch_all(RemoteJudge *r, Question *q, int n, int *next, const JudgeItem *item, double *wait, Error *err) {
    double now = now_s();
    for (int i = 0; i < r->n_lane; i++) {
        Lane *l = &r->lane[i];
        while (!l->q && *next < n) {
            Question *c = &q[(*next)++];
            if (c->done || advance(r, c, item, &l->body, &l->key)) continue;
            l->q = c;
            l->attempt = 0;
            l->answers = r->spent.requests;
            l->not_before = 0;
            l->again = false;
        }
        if (l->q && !l->flying && !launch(r, i, item, now, wait, err)) return false;
    }
    return true;
}

static bool idle(const RemoteJudge *r) {
    for (int i = 0; i < r->n_lane; i++)
        if (r->lane[i].q) return false;
    return true;
}

/* After a failure nothing more is sent, and what is under way is waited for: it may have been paid for. */
static bool ask_open(RemoteJudge *r, Question *q, int n, const JudgeItem *item, Error *err) {
    int next = 0;
    bool ok = true;
    for (;;) {
        double wait = POLL_S;
        if (ok && stop_requested(r->ctx->stop)) ok = error_set(err, ERR_STOPPED, "stopped; run again to go on");
        if (ok) ok = launch_all(r, q, n, &next, item, &wait, err);
        if (r->n_flying == 0 && (!ok || (next == n && idle(r)))) break;
        HttpReply reply;
        Error later = {0};
        int slot = r->http ? http_wait(r->http, wait, &reply) : -1;
        if (slot >= 0 && !land(r, slot, &reply, item, &later) && ok) {
            *err = later;
            ok = false;
        }
        if (!r->http) nanosleep(&(struct timespec){0, (long)(wait * 1e9)}, NULL);
        progress(r);
    }
    for (int i = 0; i < r->n_lane; i++) r->lane[i].q = NULL;
    return ok;
}

bool remote_judge_ask(RemoteJudge *r, Judged *out, const JudgeItem *item, int n, Error *err) {
    Question *q = mem_alloc((size_t)(2 * n + 1) * sizeof *q);
    Str body = {0};
    Hash key;
    r->n_question += 2 * n;
    /* What is known first: then the limits are held against all of it. */
    for (int i = 0; i < 2 * n; i++) {
        q[i] = (Question){.item = i / 2, .swapped = i & 1};
        advance(r, &q[i], item, &body, &key);
    }
    bool ok = ask_open(r, q, 2 * n, item, err);
    log_progress_end(r->ctx->log);
    for (int i = 0; i < n && ok; i++) {
        const Question *ab = &q[2 * i], *ba = &q[2 * i + 1];
        out[i] = (Judged){.l_ab = ab->l, .l_ba = ba->l, .miss = ab->miss ? ab->miss : ba->miss};
        out[i].scored = out[i].miss == MISS_NONE;
    }
    str_release(&body);
    free(q);
    return ok;
}

bool remote_judge_rate(RemoteJudge *r, double *rating, const JudgeItem *item, int n, Error *err) {
    Question *q = mem_alloc((size_t)(n + 1) * sizeof *q);
    Str body = {0};
    Hash key;
    r->n_question += n;
    for (int i = 0; i < n; i++) {
        CHECK(!item[i].b, "item %d is a pair", i);
        q[i] = (Question){.item = i, .rates = true};
        advance(r, &q[i], item, &body, &key);
    }
    bool ok = ask_open(r, q, n, item, err);
    log_progress_end(r->ctx->log);
    for (int i = 0; i < n && ok; i++) rating[i] = q[i].miss == MISS_NONE ? q[i].l : NAN;
    str_release(&body);
    free(q);
    return ok;
}

/* -- books --------------------------------------------------------------------------------------------------------- */
bool remote_judge_books(const RemoteJudge *r, Summary *s, Error *err) {
    static const char *const api[] = {"openai", "anthropic"};
    const struct {
        const char *name;
        double value;
    } row[] = {{"questions", (double)r->n_question},
               {"answers", (double)r->spent.requests},
               {"soft", (double)r->n_soft},
               {"reminded", (double)r->n_reminded},
               {"context", (double)r->n_miss[MISS_CONTEXT]},
               {"refused", (double)r->n_miss[MISS_REFUSED]},
               {"unreadable", (double)r->n_miss[MISS_UNREADABLE]},
               {"tokens_in", (double)r->spent.tokens_in},
               {"tokens_out", (double)r->spent.tokens_out},
               {"usd", spent_usd(&r->budget, r->spent)}};
    Str text = {0}, path = {0};
    JsonOut o;
    json_out_init(&o, &text, 1);
    json_out_obj(&o, NULL);
    json_out_str(&o, "schema", "dikast-judge/1");
    json_out_str(&o, "api", api[r->form.api]);
    json_out_str(&o, "url", str_get(&r->url));
    json_out_str(&o, "model", r->form.model);
    for (int i = 0; i < COUNT_OF(row); i++) {
        char key[32];
        snprintf(key, sizeof key, "remote.%s", row[i].name);
        json_out_num(&o, row[i].name, row[i].value);
        summary_num(s, key, row[i].value);
    }
    json_out_int(&o, "t_sent", r->n_sent); /* what this process did: differs between runs that were killed and not */
    json_out_int(&o, "t_again", r->n_again);
    json_out_int(&o, "t_cached", r->n_cached);
    json_out_obj_end(&o);
    str_putc(&text, '\n');
    path_join(&path, r->ctx->output, "judge.json");
    bool ok = io_write_file(str_get(&path), text.s, text.n, err);
    str_release(&text);
    str_release(&path);
    return ok;
}
