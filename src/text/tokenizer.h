// A byte-level BPE tokenizer read from a Hugging Face tokenizer.json. It gives the same ids and the
// same text as Hugging Face's tokenizer.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {

// Immutable; every method may be called from many threads at once (each encode borrows its own
// scratch memory and cache from a pool).
class Tokenizer {
 public:
  // `folder` holds tokenizer.json, perhaps tokenizer_config.json. Throws Error naming the file and
  // the key if it cannot be used.
  static Tokenizer from_folder(const std::filesystem::path& folder);
  // `where` stands for the file's path in messages.
  static Tokenizer from_json(std::string_view json_text, std::string_view where);

  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // Encodes as Hugging Face's encode(text): added tokens in the text become their ids. Unless
  // `add_special` is false, it adds the ids that the file's post-processor or the folder's
  // tokenizer_config.json puts around a text. Throws Error with the offset if the text is not valid
  // UTF-8.
  std::vector<int32_t> encode(std::string_view text, bool add_special = true) const;

  // For text that a user wrote: added tokens in it are ordinary text, and no ids are put around it.
  std::vector<int32_t> encode_plain(std::string_view text) const;
  void encode_plain(std::string_view text, std::vector<int32_t>& out) const;  // appends

  // Returns the text of all tokens, with bytes that are not UTF-8 replaced by U+FFFD. Ids without a
  // token add nothing.
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;

  // Returns the bytes of a token; empty for ids without a token. A single token may be half a
  // character (see StreamDecoder).
  std::string_view token_bytes(int32_t id) const;

  // Returns the id of a token in the spelling of the file: an added token's text, or a vocabulary
  // entry ("Ġthe").
  std::optional<int32_t> id_of(std::string_view token) const;
  // The same for added tokens only, such as control markers.
  std::optional<int32_t> added_id_of(std::string_view token) const;

  bool is_special(int32_t id) const;  // dropped by decode(ids, true)
  bool is_added(int32_t id) const;

  // Bytes of the longest token: a text of n times as many has at least n tokens.
  size_t longest_token() const;

  // One past the largest id that has a token. The model's embedding may have more rows.
  int32_t vocab_size() const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom
