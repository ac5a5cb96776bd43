#include "text/chat.h"

#include <fstream>
#include <iterator>

#include "base/error.h"
#include "text/chat_v31.h"
#include "text/chat_v32.h"
#include "text/json_reader.h"

namespace fathom {

std::string_view encoding_name(Encoding encoding) {
  return encoding == Encoding::v31 ? "v3.1" : "v3.2";
}

Encoding encoding_of_name(std::string_view name) {
  for (const Encoding encoding : {Encoding::v31, Encoding::v32}) {
    if (encoding_name(encoding) == name) return encoding;
  }
  fail("expected the encoding v3.1 or v3.2, found '{}'", name);
}

Encoding encoding_of_folder(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "tokenizer_config.json";
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    fail(
        "{}: cannot be opened (its chat_template decides between the encodings v3.1 and v3.2; "
        "name one to go without)",
        path.string());
  }
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const auto config = parse_json<nlohmann::json>(text, path.string());
  const JsonAt<nlohmann::json> root(config, path.string() + ": ");
  return root.at("chat_template").null() ? Encoding::v32 : Encoding::v31;
}

Encoding choose_encoding(std::string_view forced, const std::filesystem::path& folder) {
  return forced.empty() ? encoding_of_folder(folder) : encoding_of_name(forced);
}

std::vector<Segment> render(const Conversation& conversation, const ChatOptions& options) {
  check_tool_results(conversation);
  return options.encoding == Encoding::v31
             ? render_v31(conversation, options.thinking)
             : render_v32(conversation, options.thinking, options.keep_earlier);
}

}  // namespace fathom
