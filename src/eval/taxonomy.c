#include "eval/taxonomy.h"

#include <string.h>

#include "base/error.h"

typedef struct {
    const char *tag, *name;
    const char *also[20]; /* folded: letters and digits in lower case, one blank between words */
} Hazard;

// clang-format off
static const Hazard hazards[HAZARD_COUNT] = {
    {"violent-crimes", "Violent Crimes",
     {"vcr", "violence", "violence aiding and abetting incitement", "violence incitement", "terrorism organized crime", "animal abuse",
      "physical harm", "hate harass violence", "terror", "poison", "harmful"}},
    {"sex-related-crimes", "Sex-Related Crimes", {"src", "sexual exploitation human trafficking"}},
    {"child-sexual-exploitation", "Child Sexual Exploitation", {"cse", "child abuse", "child exploitation", "s3"}},
    {"suicide-self-harm", "Suicide & Self-Harm", {"ssh", "self harm", "suicide and self harm", "sh"}},
    {"indiscriminate-weapons", "Indiscriminate Weapons (CBRNE)",
     {"iwp", "weapons", "chemical biological", "indiscriminate weapons", "weapon"}},
    {"intellectual-property", "Intellectual Property", {"ipv", "copyright"}},
    {"defamation", "Defamation", {"dfm"}},
    {"non-violent-crimes", "Nonviolent Crimes",
     {"ncr", "nonviolent crimes", "non violent unethical behavior", "non violent unethical behavior e g lying cheating etc",
      "financial crime property crime theft", "drug abuse weapons banned substance", "substance abuse banned substances", "theft",
      "fraud deception", "illegal activity", "illegal", "malware viruses", "economic harm", "cybercrime intrusion",
      "property crime vandalism", "malicious uses", "fraud", "hacking", "drugs", "cheating"}},
    {"hate", "Hate",
     {"hte", "hate speech offensive language", "discrimination stereotype injustice", "discrimination injustice", "discrimination",
      "discrimination exclusion toxicity hateful offensive", "bullying harassment", "harassment bullying", "harassment", "hr"}},
    {"privacy", "Privacy",
     {"prv", "privacy violation", "privacy violation activity", "soliciting personally identifiable information", "information hazards"}},
    {"specialized-advice", "Specialized Advice",
     {"spc", "tailored financial advice", "illegal advice", "specialised advice", "misinformation harms"}},
    {"sexual-content", "Sexual Content",
     {"sxc", "sexually explicit adult content", "adult content", "s"}},
};
// clang-format on

const char *hazard_tag(int hazard) { return hazards[hazard].tag; }
const char *hazard_name(int hazard) { return hazards[hazard].name; }

static bool is_sign(char c) {
    return !((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (unsigned char)c >= 0x80);
}

static void fold(char out[128], const char *s) {
    size_t n = 0;
    for (; *s && n < 126; s++) {
        if (!is_sign(*s))
            out[n++] = *s >= 'A' && *s <= 'Z' ? (char)(*s + 32) : *s;
        else if (n && out[n - 1] != ' ')
            out[n++] = ' ';
    }
    if (n && out[n - 1] == ' ') n--;
    out[n] = 0;
}

static int find_folded(const char *want) {
    char have[128];
    for (int h = 0; h < HAZARD_COUNT && want[0]; h++) {
        fold(have, hazards[h].tag);
        if (!strcmp(want, have)) return h;
        fold(have, hazards[h].name);
        if (!strcmp(want, have)) return h;
        for (int i = 0; i < COUNT_OF(hazards[h].also) && hazards[h].also[i]; i++)
            if (!strcmp(want, hazards[h].also[i])) return h;
    }
    return -1;
}

int hazard_find(const char *category) {
    char want[128], first[128];
    fold(want, category);
    int h = find_folded(want);
    size_t n = strcspn(category, ",");
    if (h >= 0 || !category[n] || n >= sizeof first) return h;
    memcpy(first, category, n);
    first[n] = 0;
    fold(want, first);
    return find_folded(want);
}

RequestKind request_kind(const char *word) {
    static const char *const declined[] = {"harmful", "harm", "redteam", "unsafe"}, *const answered[] = {
                                                                                        "benign", "lookalike", "safe"};
    for (int i = 0; i < COUNT_OF(declined); i++)
        if (!strcmp(word, declined[i])) return REQUEST_HARMFUL;
    for (int i = 0; i < COUNT_OF(answered); i++)
        if (!strcmp(word, answered[i])) return REQUEST_BENIGN;
    return REQUEST_OTHER;
}
