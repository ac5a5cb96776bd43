// Where the endpoints that give answers are.
#pragma once

namespace fathom::test {

inline constexpr const char* kChat = "/v1/chat/completions";
inline constexpr const char* kCompletions = "/v1/completions";
inline constexpr const char* kResponses = "/v1/responses";
inline constexpr const char* kMessages = "/v1/messages";

}  // namespace fathom::test
