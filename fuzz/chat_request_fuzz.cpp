// Any bytes as the body of a chat or text completion: a request or an Error, never anything else.
#include "request_body.h"
#include "server/api/chat_request.h"
#include "server/api/openai_completions.h"

using namespace fathom;
using namespace fathom::server;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz_request_body(data, size, [](const OrderedJson& body, const ServiceOptions& options) {
    try {
      serves_model(JsonField(body, ""), options);
      const ChatRequest request = read_chat_request(body, options);
      FATHOM_CHECK(!request.conversation.empty(), "a conversation without a message");
      FATHOM_CHECK(request.generation.n >= 1 && request.generation.n <= kMaxChoices, "n {}",
                   request.generation.n);
      render(request.conversation,
             {options.encoding, request.thinking && !request.continues, false});
    } catch (const Error&) {
    }
    try {
      const CompletionRequest request = read_completion_request(body, options);
      FATHOM_CHECK(!request.prompts.empty(), "no prompt");
    } catch (const Error&) {
    }
  });
  return 0;
}
