#include "text/pre_tokenizer.h"

#include <cstdint>

#include "base/check.h"
#include "base/error.h"
#include "text/unicode_shadow.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace fathom {
namespace {

// A match may take this many steps of backtracking, and this much stack. The patterns of the family
// need a few steps a character; the limits are there for patterns that explode.
constexpr uint32_t kMatchLimit = 200'000'000;
constexpr size_t kJitStackStart = 32 * 1024, kJitStackMax = 8 * 1024 * 1024;
constexpr uint32_t kHeapLimitKib = 256 * 1024;

std::string pcre_message(int code) {
  PCRE2_UCHAR buffer[256] = {};
  pcre2_get_error_message(code, buffer, sizeof(buffer));
  return reinterpret_cast<const char*>(buffer);
}

template <auto Free>
struct Deleter {
  template <class T>
  void operator()(T* p) const {
    Free(p);
  }
};

using Code = std::unique_ptr<pcre2_code, Deleter<pcre2_code_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Deleter<pcre2_match_data_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Deleter<pcre2_match_context_free>>;
using JitStack = std::unique_ptr<pcre2_jit_stack, Deleter<pcre2_jit_stack_free>>;

}  // namespace

struct PreTokenizer::Scratch::State {
  State()
      // One pair of offsets is enough: only the whole match matters.
      : match_data(pcre2_match_data_create(1, nullptr)),
        context(pcre2_match_context_create(nullptr)),
        jit_stack(pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr)) {
    if (!match_data || !context) fail("regex engine: out of memory");
    pcre2_set_match_limit(context.get(), kMatchLimit);
    pcre2_set_heap_limit(context.get(), kHeapLimitKib);
    if (jit_stack) pcre2_jit_stack_assign(context.get(), nullptr, jit_stack.get());
  }

  MatchData match_data;
  MatchContext context;
  JitStack jit_stack;
  std::string shadow;
};

PreTokenizer::Scratch::Scratch() : state_(std::make_unique<State>()) {}
PreTokenizer::Scratch::~Scratch() = default;
PreTokenizer::Scratch::Scratch(Scratch&&) noexcept = default;
PreTokenizer::Scratch& PreTokenizer::Scratch::operator=(Scratch&&) noexcept = default;

class PreTokenizer::Regex {
 public:
  Regex(const SplitPattern& split, std::string_view where) : pattern_(split.pattern) {
    uint32_t options = PCRE2_UTF | PCRE2_NO_UTF_CHECK;
    options |= split.is_regex ? PCRE2_UCP : PCRE2_LITERAL;
    int error = 0;
    PCRE2_SIZE offset = 0;
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern_.data()), pattern_.size(),
                              options, &error, &offset, nullptr));
    if (!code_) {
      fail("{}: regex '{}' does not compile: {} at byte {}", where, pattern_, pcre_message(error),
           offset);
    }
    // Without JIT (an unusual build of the library) the interpreter gives the same matches, slower.
    jit_ = pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE) == 0;
  }

  // The first non-empty match at or after `from`; false if there is none.
  bool find(std::string_view subject, size_t from, Scratch::State& state, size_t& begin,
            size_t& end) const {
    const auto* text = reinterpret_cast<PCRE2_SPTR>(subject.data());
    // NOTEMPTY: an empty match is no piece, and the search must go on past it.
    constexpr uint32_t kOptions = PCRE2_NOTEMPTY | PCRE2_NO_UTF_CHECK;
    const int rc = jit_ ? pcre2_jit_match(code_.get(), text, subject.size(), from, PCRE2_NOTEMPTY,
                                          state.match_data.get(), state.context.get())
                        : pcre2_match(code_.get(), text, subject.size(), from, kOptions,
                                      state.match_data.get(), state.context.get());
    if (rc == PCRE2_ERROR_NOMATCH) return false;
    if (rc < 0) {
      fail("tokenizer: splitting {} bytes of text with '{}' failed: {}", subject.size(), pattern_,
           pcre_message(rc));
    }
    const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(state.match_data.get());
    begin = offsets[0];
    end = offsets[1];
    // \K in a look-behind could move the start of the match, which no tokenizer file may use.
    if (begin < from || end <= begin) {
      fail("tokenizer: pattern '{}' gives a match that runs backwards", pattern_);
    }
    return true;
  }

 private:
  std::string pattern_;
  Code code_;
  bool jit_ = false;
};

PreTokenizer::PreTokenizer(const std::vector<SplitPattern>& patterns, std::string_view where) {
  regexes_.reserve(patterns.size());
  for (const SplitPattern& p : patterns) regexes_.emplace_back(p, where);
}
PreTokenizer::~PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;

void PreTokenizer::split(std::string_view text, Scratch& scratch, const Piece& piece) const {
  Scratch::State& state = *scratch.state_;
  const bool shadowed = make_unicode_shadow(text, state.shadow);
  split_level(0, shadowed ? std::string_view(state.shadow) : text, 0, text.size(), state, piece);
}

void PreTokenizer::split_level(size_t level, std::string_view subject, size_t begin, size_t end,
                               Scratch::State& state, const Piece& piece) const {
  if (begin == end) return;
  if (level == regexes_.size()) {
    piece(begin, end);
    return;
  }
  const std::string_view part = subject.substr(begin, end - begin);
  size_t done = 0, match_begin = 0, match_end = 0;
  while (done < part.size() && regexes_[level].find(part, done, state, match_begin, match_end)) {
    split_level(level + 1, subject, begin + done, begin + match_begin, state, piece);
    split_level(level + 1, subject, begin + match_begin, begin + match_end, state, piece);
    done = match_end;
  }
  split_level(level + 1, subject, begin + done, end, state, piece);
}

}  // namespace fathom
