#include "cai/decline.h"

#include <string.h>

#include "base/error.h"

enum { TOPIC_WORDS = 14 };

/* What stands before the deed, and between it and the reason. */
static const struct {
    const char *before, *between;
} opening[] = {
    {"I won't help you ", ", because "},       {"I will not help you ", ", since "},
    {"I can't help you ", ", because "},       {"I am not able to help you ", ", as "},
    {"I cannot help you ", ", because "},      {"I'm not able to help you ", ": "},
    {"I must decline to help you ", ", as "},  {"I can't tell you how to ", ", since "},
    {"I won't explain how to ", ", because "}, {"No, I won't help you ", ": "},
};
/* With the reason first: what stands before it, and between it and the deed. The word that announces the reason follows
 * the refusal at once, and nothing refuses a second time: whatever else stands behind "I will not" in some
 * demonstration is what a small model says there when it has forgotten the reason. */
static const struct {
    const char *before, *between;
} reasoned[] = {
    {"I must decline, because ", ". You asked how to "},
    {"I won't, because ", ". Nobody should learn from me how to "},
    {"I can't, since ", ". Let us leave aside how to "},
    {"I refuse, because ", ". Please do not "},
    {"I will not, since ", ". It would be wrong to "},
    {"I cannot, because ", ". Think again before you "},
    {"No, I won't, because ", ". There are better things to do than to "},
    {"No, I can't, since ", ". Your plan was to "},
    {"Sorry, no, because ", ". Better not try to "},
    {"I'm sorry, but no, since ", ". You want to "},
    {"I refuse, since ", ". The question was how to "},
    {"I must decline, since ", ". This was about how to "},
};
/* Where the request does not say it in a form that can be repeated. */
static const char *const unnamed[] = {
    "I won't help with this, because ",        "I will not take part in that, since ",
    "I can't help with something like this: ", "I am not able to give advice on that, because ",
    "I cannot answer this one, since ",        "I must decline here, because ",
    "I won't go into how that is done, as ",   "No, I leave this out, because ",
};
/* True of whatever is harmful, whichever rule it breaks; each with a word that says so. */
static const char *const reason[] = {
    "it could hurt someone",
    "it could do harm to other people",
    "it puts others in danger and could hurt them",
    "it would hurt somebody who has done nothing wrong",
    "that would be unfair to the people it harms",
    "it can do harm that nobody can undo",
    "it is likely to be illegal and to hurt other people",
    "the harm to others would be real",
    "someone else would have to live with the harm",
    "it would be dangerous for you and for others",
    "it takes from others what is theirs, and that is unfair",
    "others trust you not to harm them",
};
/* Short, and no three words in a row stand in two of them: what many say in the same words is said in every reply
 * before long. */
static const char *const offer[] = {
    "I am glad to look for a safe way to get what you need.",
    "If you tell me what is behind it, we will find an answer.",
    "How about a lawful way towards the same end?",
    "What I can explain is how people protect themselves.",
    "I would be happy to help with a kinder plan.",
    "You could say what this is meant to achieve; an honest way may be near.",
    "If you are in trouble, reach out to someone who cares.",
    "Consider asking a friend for advice.",
    "Try to solve the problem in a fair way.",
    "Instead, talk it over with the people concerned.",
    "You can ask me how to stay safe.",
    "A better question is where the law draws the line.",
};

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c; }

static bool begins(const char *s, const char *with) {
    for (; *with; s++, with++)
        if (lower(*s) != *with) return false;
    return true;
}

/* Where the deed begins, or NULL. */
static const char *find_deed(const char *request) {
    static const char *const ask[] = {"how can i ",  "how can we ",      "how could i ", "how do i ",
                                      "how do you ", "how would i ",     "how to ",      "ways to ",
                                      "way to ",     "ways that i can ", "want to ",     "need to "};
    static const char *const order[] = {"write ",    "create ",  "give ",    "provide ",  "list ",
                                        "describe ", "explain ", "develop",  "design ",   "teach ",
                                        "instruct ", "make ",    "compose ", "generate ", "draft ",
                                        "suggest ",  "outline ", "show ",    "plan "};
    for (int i = 0; i < COUNT_OF(order); i++)
        if (begins(request, order[i])) return request;
    for (const char *p = request; *p; p++) {
        if (p > request && p[-1] != ' ' && p[-1] != '\n') continue;
        for (int i = 0; i < COUNT_OF(ask); i++)
            if (begins(p, ask[i])) return p + strlen(ask[i]);
    }
    return NULL;
}

/* The word as said to the one who said it. */
static void put_turned(Str *out, const char *word, size_t n) {
    static const char *const turned[][2] = {{"i", "you"},      {"me", "you"},          {"my", "your"},
                                            {"mine", "yours"}, {"myself", "yourself"}, {"we", "you"},
                                            {"our", "your"},   {"us", "you"},          {"i'm", "you're"}};
    size_t core = n;
    while (core > 0 && strchr(",;:)\"'", word[core - 1])) core--;
    for (int i = 0; i < COUNT_OF(turned); i++)
        if (strlen(turned[i][0]) == core && begins(word, turned[i][0])) {
            str_put(out, turned[i][1]);
            str_putn(out, word + core, n - core);
            return;
        }
    str_putn(out, word, n);
}

bool decline_topic(Str *out, const char *request) {
    static const char *const nothing[] = {"do it", "do this", "do that"};
    size_t before = out->n;
    while (*request == ' ' || *request == '\n') request++;
    const char *s = find_deed(request);
    if (!s) return false;
    for (int i = 0; i < COUNT_OF(nothing); i++)
        if (begins(s, nothing[i])) return false;
    int words = 0;
    while (*s && !strchr(".?!\n", *s)) {
        size_t n = strcspn(s, " .?!\n");
        if (n) {
            if (words++) str_putc(out, ' ');
            put_turned(out, s, n);
            if (words == 1) out->s[before] = lower(out->s[before]);
        }
        s += n;
        while (*s == ' ') s++;
    }
    if (words >= 2 && words <= TOPIC_WORDS) return true;
    out->n = before;
    if (out->s) out->s[before] = 0;
    return false;
}

void decline_say(Str *out, const char *request, bool reason_first, Rng rng, uint64_t item) {
    Str topic = {0};
    const char *why = reason[rng_below(rng, item, 1, COUNT_OF(reason))];
    bool named = decline_topic(&topic, request);
    if (reason_first) {
        uint32_t k = rng_below(rng, item, 0, COUNT_OF(reasoned));
        str_printf(out, "%s%s", reasoned[k].before, why);
        if (named) str_printf(out, "%s%s", reasoned[k].between, str_get(&topic));
    } else if (named) {
        uint32_t k = rng_below(rng, item, 0, COUNT_OF(opening));
        str_printf(out, "%s%s%s%s", opening[k].before, str_get(&topic), opening[k].between, why);
    } else
        str_printf(out, "%s%s", unnamed[rng_below(rng, item, 0, COUNT_OF(unnamed))], why);
    str_put(out, ". ");
    str_put(out, offer[rng_below(rng, item, 2, COUNT_OF(offer))]);
    str_release(&topic);
}
