// A vocabulary of a few byte strings in place of llama.cpp's, for src/llama-sampler.cpp compiled alone.
#include "llama-vocab.h"

#include <algorithm>
#include <cstring>

static std::vector<std::string> words;
static std::vector<int> ends;

struct llama_vocab::impl {};
llama_vocab::llama_vocab() {}
llama_vocab::~llama_vocab() {}

uint32_t llama_vocab::n_tokens() const { return words.size(); }
llama_token llama_vocab::token_eos() const { return ends.empty() ? -1 : ends[0]; }
llama_token llama_vocab::token_eot() const { return token_eos(); }
std::string llama_vocab::detokenize(const std::vector<llama_token> & tokens, bool) const { return words[tokens[0]]; }

bool llama_vocab::is_eog(llama_token token) const {
    return std::find(ends.begin(), ends.end(), token) != ends.end();
}

int32_t llama_vocab::token_to_piece(llama_token token, char * out, int32_t room, int32_t, bool special) const {
    if (!special && is_eog(token)) return 0;
    const int32_t size = words[token].size();
    if (size > room) return -size;
    memcpy(out, words[token].data(), size);
    return size;
}

// the longest words that fit, of equals the first
std::vector<llama_token> llama_vocab::tokenize(const std::string & text, bool, bool) const {
    std::vector<llama_token> tokens;
    for (size_t at = 0; at < text.size();) {
        int best = -1;
        for (size_t i = 0; i < words.size(); i++)
            if (!words[i].empty() && text.compare(at, words[i].size(), words[i]) == 0 &&
                (best < 0 || words[i].size() > words[best].size())) best = i;
        if (best < 0) break;
        tokens.push_back(best);
        at += words[best].size();
    }
    return tokens;
}

extern "C" llama_vocab * vocabulary(const char * data, const int * sizes, int n, const int * end_ids, int n_ends) {
    words.clear();
    for (int i = 0; i < n; data += sizes[i++]) words.emplace_back(data, sizes[i]);
    ends.assign(end_ids, end_ids + n_ends);
    return new llama_vocab();
}
