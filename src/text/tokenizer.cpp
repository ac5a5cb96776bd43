#include "text/tokenizer.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <mutex>
#include <optional>
#include <set>
#include <sstream>
#include <unordered_map>

#include "base/error.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/byte_alphabet.h"
#include "text/json_reader.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer_file.h"
#include "text/utf8.h"

namespace fathom {
namespace {

// What one encode call works with. The cache is only ever a shortcut: it never changes a result.
struct Scratch {
  PreTokenizer::Scratch pre_tokenizer;
  PieceCache cache;
};

class ScratchPool {
 public:
  std::unique_ptr<Scratch> borrow() {
    const std::lock_guard lock(mutex_);
    if (idle_.empty()) return std::make_unique<Scratch>();
    auto scratch = std::move(idle_.back());
    idle_.pop_back();
    return scratch;
  }
  void give_back(std::unique_ptr<Scratch> scratch) {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(scratch));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Scratch>> idle_;
};

struct Token {
  std::string bytes;
  bool exists = false, added = false, special = false;
};

// A token of the vocabulary is spelled in the byte alphabet; one with a character that is not in it
// is taken as text, as Hugging Face does.
std::string bytes_of_token(const std::string& spelling) {
  return bytes_of_spelling(spelling).value_or(spelling);
}

// Those of `candidates` that encoding can produce: single bytes, results of merges, and with
// ignore_merges every valid text.
std::set<std::string> reached_by_bpe(const TokenizerSpec& spec,
                                     const std::set<std::string>& candidates) {
  std::set<std::string> reached;
  for (const std::string& spelling : candidates) {
    const std::string bytes = bytes_of_token(spelling);
    if (bytes.size() == 1 || (spec.ignore_merges && !first_invalid_utf8(bytes)))
      reached.insert(spelling);
  }
  for (const auto& [left, right] : spec.merges)
    if (const std::string joined = left + right; candidates.count(joined)) reached.insert(joined);
  return reached;
}

// Encoding looks for added tokens by their content, and decoding gives the content back. A file may
// list a vocabulary entry as added although its spelling stands for other bytes: "č" is how the
// byte alphabet spells a carriage return. If encoding gives that id for those bytes, the id must
// decode to them. So the added token is dropped, and its text is encoded like any other.
void drop_unreadable_added_tokens(TokenizerSpec& spec) {
  std::set<std::string> candidates;
  for (const AddedToken& a : spec.added_tokens)
    if (bytes_of_token(a.content) != a.content) candidates.insert(a.content);
  if (candidates.empty()) return;
  std::set<std::string> shared = reached_by_bpe(spec, candidates);
  std::set<std::pair<std::string, int32_t>> entries;
  for (const auto& [spelling, id] : spec.vocab)
    if (shared.count(spelling)) entries.emplace(spelling, id);
  std::erase_if(spec.added_tokens, [&](const AddedToken& a) {
    return entries.count({a.content, a.id}) > 0;
  });
}

std::vector<Token> make_tokens(const TokenizerSpec& spec, std::string_view where) {
  int32_t largest = 0;
  for (const auto& [spelling, id] : spec.vocab) largest = std::max(largest, id);
  for (const AddedToken& a : spec.added_tokens) largest = std::max(largest, a.id);
  std::vector<Token> tokens(static_cast<size_t>(largest) + 1);
  for (const auto& [spelling, id] : spec.vocab) {
    Token& t = tokens[id];
    if (t.exists)
      fail("{}: model.vocab: id {} given to two tokens, one is '{}'", where, id, spelling);
    t = {bytes_of_token(spelling), true, false, false};
  }
  for (const AddedToken& a : spec.added_tokens) {
    Token& t = tokens[a.id];
    // The first ids of DeepSeek's file are listed in both places, with one spelling.
    const bool same = t.bytes == a.content || t.bytes == bytes_of_token(a.content);
    if (t.exists && (t.added || !same)) {
      fail("{}: added_tokens: id {} of '{}' belongs to another token", where, a.id, a.content);
    }
    t = {a.content, true, true, a.special};
  }
  return tokens;
}

}  // namespace

struct Tokenizer::Impl {
  Impl(TokenizerSpec spec, std::string_view where)
      : added(std::move(spec.added_tokens)),
        prefix_ids(std::move(spec.prefix_ids)),
        suffix_ids(std::move(spec.suffix_ids)),
        pre_tokenizer(spec.splits, fmt::format("{}: pre_tokenizer", where)),
        bpe(spec, where),
        raw_matcher(added, false),
        normalized_matcher(added, true) {}

  std::vector<AddedToken> added;  // the matchers point into it
  std::unordered_map<std::string, int32_t> added_ids;
  std::vector<int32_t> prefix_ids, suffix_ids;
  std::vector<Token> tokens;
  size_t longest = 0;  // bytes of a token
  PreTokenizer pre_tokenizer;
  Bpe bpe;
  AddedTokenMatcher raw_matcher, normalized_matcher;
  mutable ScratchPool pool;

  void encode_pieces(std::string_view text, Scratch& scratch, std::vector<int32_t>& out) const {
    pre_tokenizer.split(text, scratch.pre_tokenizer, [&](size_t begin, size_t end) {
      bpe.encode(text.substr(begin, end - begin), scratch.cache, out);
    });
  }
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

namespace {

// The beginning of sentence that Hugging Face's Llama tokenizer classes, which some folders name,
// put in front of a text when tokenizer_config.json says so. Other classes do not read the flag.
std::optional<std::string> bos_of_config(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  std::ostringstream content;
  content << file.rdbuf();
  const auto document = parse_json<nlohmann::json>(content.view(), path.string());
  const JsonAt<nlohmann::json> root(document, path.string() + ": ");
  const JsonAt<nlohmann::json> name = root.at("tokenizer_class");
  if (!root.at("add_bos_token").boolean_or(false) || name.null() ||
      !name.string().starts_with("LlamaTokenizer"))
    return std::nullopt;
  const JsonAt<nlohmann::json> bos = root.at("bos_token");
  return bos.value().is_object() ? bos.at("content").string() : bos.string();
}

}  // namespace

Tokenizer Tokenizer::from_folder(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "tokenizer.json";
  std::ifstream file(path, std::ios::binary);
  if (!file) fail("{}: cannot be opened (a checkpoint folder has a tokenizer.json)", path.string());
  std::ostringstream content;
  content << file.rdbuf();
  Tokenizer tokenizer = from_json(content.view(), path.string());
  const std::filesystem::path config = folder / "tokenizer_config.json";
  if (const auto bos = bos_of_config(config); bos && tokenizer.impl_->prefix_ids.empty()) {
    const std::optional<int32_t> id = tokenizer.added_id_of(*bos);
    if (!id) fail("{}: bos_token: '{}' is no added token", config.string(), *bos);
    tokenizer.impl_->prefix_ids = {*id};
  }
  return tokenizer;
}

Tokenizer Tokenizer::from_json(std::string_view json_text, std::string_view where) {
  TokenizerSpec spec = parse_tokenizer_spec(json_text, where);
  drop_unreadable_added_tokens(spec);
  std::vector<Token> tokens = make_tokens(spec, where);
  auto impl = std::make_unique<Impl>(std::move(spec), where);
  impl->tokens = std::move(tokens);
  for (const Token& t : impl->tokens) impl->longest = std::max(impl->longest, t.bytes.size());
  for (const AddedToken& a : impl->added) {
    // A text must not have two ids. An entry of the vocabulary that is spelled alike but stands for
    // other bytes is another token.
    const int32_t in_vocab = impl->bpe.id_of_spelling(a.content);
    const bool twice =
        in_vocab >= 0 && in_vocab != a.id && impl->tokens[in_vocab].bytes == a.content;
    if (twice || !impl->added_ids.emplace(a.content, a.id).second) {
      fail("{}: added_tokens: '{}' has two ids, one is {}", where, a.content, a.id);
    }
  }
  for (const auto* ids : {&impl->prefix_ids, &impl->suffix_ids}) {
    for (const int32_t id : *ids) {
      if (static_cast<size_t>(id) >= impl->tokens.size() || !impl->tokens[id].exists) {
        fail("{}: post_processor: no token has id {}", where, id);
      }
    }
  }
  return Tokenizer(std::move(impl));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special) const {
  require_utf8(text, "text");
  std::vector<int32_t> ids;
  auto scratch = impl_->pool.borrow();
  impl_->raw_matcher.split(text, [&](const AddedToken* token, std::string_view part) {
    if (token) {
      ids.push_back(token->id);
      return;
    }
    impl_->normalized_matcher.split(part, [&](const AddedToken* inner, std::string_view rest) {
      if (inner) {
        ids.push_back(inner->id);
      } else {
        impl_->encode_pieces(rest, *scratch, ids);
      }
    });
  });
  impl_->pool.give_back(std::move(scratch));
  if (!add_special) return ids;
  // A text that begins with those markers already (a rendered chat template) does not get them
  // twice.
  const std::vector<int32_t>& prefix = impl_->prefix_ids;
  const bool there =
      ids.size() >= prefix.size() && std::equal(prefix.begin(), prefix.end(), ids.begin()) &&
      std::all_of(prefix.begin(), prefix.end(), [&](int32_t id) { return is_added(id); });
  if (!there) ids.insert(ids.begin(), prefix.begin(), prefix.end());
  ids.insert(ids.end(), impl_->suffix_ids.begin(), impl_->suffix_ids.end());
  return ids;
}

std::vector<int32_t> Tokenizer::encode_plain(std::string_view text) const {
  std::vector<int32_t> ids;
  encode_plain(text, ids);
  return ids;
}

void Tokenizer::encode_plain(std::string_view text, std::vector<int32_t>& out) const {
  require_utf8(text, "text");
  auto scratch = impl_->pool.borrow();
  impl_->encode_pieces(text, *scratch, out);
  impl_->pool.give_back(std::move(scratch));
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string bytes;
  for (const int32_t id : ids) {
    if (!skip_special || !is_special(id)) bytes += token_bytes(id);
  }
  return replace_invalid_utf8(bytes);
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  return impl_->tokens[id].bytes;
}

std::optional<int32_t> Tokenizer::id_of(std::string_view token) const {
  if (const auto added = added_id_of(token)) return added;
  const int32_t id = impl_->bpe.id_of_spelling(token);
  return id < 0 ? std::nullopt : std::optional(id);
}

std::optional<int32_t> Tokenizer::added_id_of(std::string_view token) const {
  const auto it = impl_->added_ids.find(std::string(token));
  return it == impl_->added_ids.end() ? std::nullopt : std::optional(it->second);
}

bool Tokenizer::is_special(int32_t id) const {
  return id >= 0 && id < vocab_size() && impl_->tokens[id].special;
}

bool Tokenizer::is_added(int32_t id) const {
  return id >= 0 && id < vocab_size() && impl_->tokens[id].added;
}

size_t Tokenizer::longest_token() const { return impl_->longest; }

int32_t Tokenizer::vocab_size() const { return static_cast<int32_t>(impl_->tokens.size()); }

}  // namespace fathom
