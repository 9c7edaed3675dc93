/* added.c — looking for added tokens: the leftmost match, the longest there.
 *
 * A trie over bytes in one hash table of edges, so a thousand tokens that begin alike (<|reserved_special_token_7|>)
 * cost a few probes where text begins as they do, and a table of first bytes costs next to nothing everywhere else. */
#include "text/text_int.h"

#include <stdlib.h>
#include <string.h>

static uint64_t edge_slot(const AddedTrie *t, uint64_t key) {
    uint64_t i = key * 0x9E3779B97F4A7C15u;
    i = (i ^ i >> 32) & t->mask;
    while (t->edge[i] != key && t->edge[i] != UINT64_MAX) i = (i + 1) & t->mask;
    return i;
}

static uint64_t edge_key(int32_t node, char byte) { return (uint64_t)(uint32_t)node << 8 | (unsigned char)byte; }

static void trie_put(AddedTrie *t, const char *s, size_t n, int index) {
    int32_t node = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t key = edge_key(node, s[i]), slot = edge_slot(t, key);
        if (t->edge[slot] != key) {
            t->edge[slot] = key;
            t->end[t->n_node] = -1;
            t->to[slot] = t->n_node++;
        }
        node = t->to[slot];
    }
    unsigned char byte = (unsigned char)s[0];
    t->only_first = t->only_first == -2 || t->only_first == byte ? byte : -1;
    t->first[byte] = true;
    t->end[node] = index;
}

static bool trie_has(const AddedTrie *t, const char *s, size_t n) {
    AddedMatch m;
    return t->n_node > 1 && added_find(&m, t, s, n, 0) && m.at == 0 && m.end == n;
}

static bool trie_build(AddedTrie *t, const AddedToken *a, int n, bool normalized, Error *err) {
    size_t bytes = 0;
    for (int i = 0; i < n; i++)
        if (a[i].normalized == normalized) bytes += a[i].n_norm;
    if (bytes == 0) return true;
    uint64_t cap = 16;
    while (cap < 2 * (bytes + 1)) cap *= 2;
    t->mask = cap - 1;
    t->edge = mem_alloc(cap * sizeof *t->edge);
    t->to = mem_alloc(cap * sizeof *t->to);
    t->end = mem_alloc((bytes + 1) * sizeof *t->end);
    memset(t->edge, 0xFF, cap * sizeof *t->edge);
    t->end[0] = -1;
    t->n_node = 1;
    t->only_first = -2; /* none yet */
    for (int i = 0; i < n; i++) {
        if (a[i].normalized != normalized) continue;
        if (trie_has(t, a[i].norm, a[i].n_norm))
            return error_set(err, ERR_FORMAT,
                             "added_tokens: '%.60s' is not the only one that is spelled so once normalized", a[i].s);
        trie_put(t, a[i].norm, a[i].n_norm, i);
    }
    return true;
}

bool added_tries_build(Tokenizer *t, Error *err) {
    return trie_build(&t->trie[0], t->added, t->n_added, false, err) &&
           trie_build(&t->trie[1], t->added, t->n_added, true, err);
}

void added_trie_release(AddedTrie *t) {
    free(t->edge);
    free(t->to);
    free(t->end);
    *t = (AddedTrie){0};
}

/* Where a token may begin, from `at` on. */
static size_t next_first(const AddedTrie *t, const char *s, size_t n, size_t at) {
    if (t->only_first >= 0) {
        const char *found = at < n ? memchr(s + at, t->only_first, n - at) : NULL;
        return found ? (size_t)(found - s) : n;
    }
    while (at < n && !t->first[(unsigned char)s[at]]) at++;
    return at;
}

bool added_find(AddedMatch *m, const AddedTrie *t, const char *s, size_t n, size_t from) {
    for (size_t at = from; (at = next_first(t, s, n, at)) < n; at++) {
        int32_t node = 0;
        m->index = -1;
        for (size_t i = at; i < n; i++) {
            uint64_t key = edge_key(node, s[i]), slot = edge_slot(t, key);
            if (t->edge[slot] != key) break;
            node = t->to[slot];
            if (t->end[node] < 0) continue;
            m->index = t->end[node];
            m->at = at;
            m->end = i + 1;
        }
        if (m->index >= 0) return true;
    }
    return false;
}
