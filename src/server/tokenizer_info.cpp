#include "server/tokenizer_info.h"

#include <fstream>
#include <iterator>

#include "text/json_reader.h"

namespace fathom::server {

OrderedJson tokenizer_info(const std::filesystem::path& folder, const Tokenizer& tokenizer,
                           int32_t bos, int32_t eos) {
  OrderedJson info = OrderedJson::object();
  const std::filesystem::path path = folder / "tokenizer_config.json";
  if (std::ifstream file(path, std::ios::binary); file) {
    const std::string text((std::istreambuf_iterator<char>(file)),
                           std::istreambuf_iterator<char>());
    info = parse_json<OrderedJson>(text, path.string());
    JsonAt<OrderedJson>(info, path.string() + ": ").expect(info.is_object(), "an object");
  }
  // Older files spell a token as an object with its flags.
  for (auto& [key, value] : info.items())
    if (key.ends_with("_token") && value.is_object() && value.contains("content"))
      value = OrderedJson(value["content"]);
  auto complete = [&](const char* key, int32_t id) {
    if (const auto it = info.find(key); it != info.end() && it->is_string()) return;
    const std::string text(tokenizer.token_bytes(id));
    info[key] = text.empty() ? OrderedJson(nullptr) : OrderedJson(text);
  };
  complete("bos_token", bos);
  complete("eos_token", eos);
  return info;
}

}  // namespace fathom::server
