// Any bytes as the body of a chat or text completion: a request or an Error, never anything else.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "server/chat_request.h"
#include "server/openai_completions.h"

using namespace fathom;
using namespace fathom::server;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  OrderedJson document;
  try {
    document = parse_json_body(body);
  } catch (const Error&) {
    return 0;
  }
  for (const Encoding encoding : {Encoding::v31, Encoding::v32}) {
    ServiceOptions options;
    options.model_names = {"fathom"};
    options.encoding = encoding;
    options.vocab = 1000;
    try {
      const JsonField root(document, "");
      serves_model(root, options);
      const ChatRequest request = read_chat_request(document, options);
      FATHOM_CHECK(!request.conversation.empty(), "a conversation without a message");
      FATHOM_CHECK(request.generation.n >= 1 && request.generation.n <= kMaxChoices, "n {}",
                   request.generation.n);
      render(request.conversation, {encoding, request.thinking, false});
    } catch (const Error&) {
    }
    try {
      const CompletionRequest request = read_completion_request(document, options);
      FATHOM_CHECK(!request.prompts.empty(), "no prompt");
    } catch (const Error&) {
    }
  }
  return 0;
}
