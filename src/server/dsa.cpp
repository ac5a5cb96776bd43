#include "server/dsa.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <utility>

#include "server/router.h"
#include "server/service.h"
#include "text/stream_decoder.h"
#include "text/utf8.h"

namespace fathom::server {
namespace {

using nlohmann::json;

constexpr std::string_view kJson = "application/json";

// The text of each token. A token that ends inside a character gets the complete characters before;
// the rest comes with the token that completes it. Joined, the pieces are the text.
std::vector<std::string> pieces_of(const Tokenizer& tokenizer, std::span<const int32_t> ids) {
  StreamDecoder decoder(tokenizer);
  std::vector<std::string> pieces;
  pieces.reserve(ids.size());
  for (const int32_t id : ids) pieces.push_back(decoder.push(id));
  if (!pieces.empty()) pieces.back() += decoder.flush();
  return pieces;
}

// The piece of the last of `ids`, as in pieces_of, without decoding the whole text. A character has
// at most four bytes, so an incomplete one began in the last few tokens that have bytes.
std::string last_piece(const Tokenizer& tokenizer, std::span<const int32_t> ids, bool at_end) {
  constexpr size_t kEnough = 16;
  const auto tail = ids.last(std::min(ids.size(), kEnough));
  StreamDecoder decoder(tokenizer);
  std::string piece;
  for (const int32_t id : tail) piece = decoder.push(id);
  return at_end ? piece + decoder.flush() : piece;
}

// Ascending positions: one that stands alone as a number, neighbours as [first, last].
json ranges_of(std::span<const int32_t> positions) {
  json ranges = json::array();
  for (size_t i = 0; i < positions.size();) {
    size_t end = i + 1;
    while (end < positions.size() && positions[end] == positions[end - 1] + 1) ++end;
    if (end == i + 1) {
      ranges.push_back(positions[i]);
    } else {
      ranges.push_back(json::array({positions[i], positions[end - 1]}));
    }
    i = end;
  }
  return ranges;
}

// Positions that both lists have.
size_t common(std::span<const int32_t> a, std::span<const int32_t> b) {
  size_t count = 0;
  for (size_t i = 0, k = 0; i < a.size() && k < b.size();) {
    if (a[i] == b[k]) {
      ++count, ++i, ++k;
    } else if (a[i] < b[k]) {
      ++i;
    } else {
      ++k;
    }
  }
  return count;
}

std::optional<int64_t> number_of(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

json text_answer(const DsaSource& source, const std::string& id, const SelectionStore::Text& text) {
  return {
      {"object", "dsa.text"},
      {"request", id},
      {"model", source.model},
      {"prompt_tokens", text.prompt},
      {"generated_tokens", static_cast<int64_t>(text.ids.size()) - text.prompt},
      {"kept", text.kept},
      {"layers", text.layers},
      {"drafted", text.drafted},
      {"tokens", pieces_of(source.tokenizer, text.ids)},
  };
}

json layers_answer(const std::vector<std::vector<int32_t>>& layers,
                   const std::vector<std::vector<int32_t>>& before, int64_t context) {
  json answer = json::array();
  for (size_t i = 0; i < layers.size(); ++i) {
    const auto& selected = layers[i];
    json overlap;  // null: nothing to compare with
    if (i < before.size() && !selected.empty()) {
      overlap =
          static_cast<double>(common(selected, before[i])) / static_cast<double>(selected.size());
    }
    answer.push_back({
        {"layer", i},
        {"selected", ranges_of(selected)},
        {"share", static_cast<double>(selected.size()) / static_cast<double>(context)},
        {"overlap", std::move(overlap)},
    });
  }
  return answer;
}

// `given`: as the client wrote it, which may be anything; an answer is UTF-8.
Failure unknown_request(const DsaSource& source, std::string_view given) {
  const std::string id = replace_invalid_utf8(given);
  return {404, source.keeps
                   ? fmt::format("nothing is kept of request '{}': only the last requests are; "
                                 "repeat it to look at it",
                                 id)
                   : fmt::format("nothing is kept of request '{}': this server was started without "
                                 "--keep-selection",
                                 id)};
}

Result<json> token_answer(const DsaSource& source, const std::string& id, std::string_view number,
                          const SelectionStore::Text& text) {
  const std::optional<int64_t> token = number_of(number);
  const int64_t generated = static_cast<int64_t>(text.ids.size()) - text.prompt;
  if (!token || *token < 0 || *token >= generated) {
    return Failure{400, fmt::format("token is '{}': accepted are numbers below {}, the tokens "
                                    "that request '{}' has generated so far",
                                    replace_invalid_utf8(number), generated, id)};
  }
  std::vector<std::vector<int32_t>> layers, before;
  if (!source.store.find(id, *token, layers)) {
    // It was beyond the store's limit, or it was dropped after `text` was read.
    return Failure{404, fmt::format("the selection of token {} is not kept: of request '{}' the "
                                    "first {} tokens' are",
                                    *token, id, text.kept)};
  }
  source.store.find(id, *token - 1, before);  // leaves it empty for the first token
  const int64_t position = text.prompt + *token;
  const auto upto = std::span(text.ids).first(static_cast<size_t>(position + 1));
  return json{
      {"object", "dsa.selection"},
      {"request", id},
      {"token", *token},
      {"text", last_piece(source.tokenizer, upto, *token + 1 == generated)},
      {"position", position},
      // The candidates: all positions before this token, the last of which is the query's own.
      {"context_tokens", position},
      {"layers", layers_answer(layers, before, position)},
  };
}

}  // namespace

void answer_selection(const DsaSource& source, const HttpRequest& request, HttpReply& reply) {
  if (!request.query.contains("request")) {
    if (request.query.contains("token")) {
      return send_error(reply, ErrorShape::openai,
                        {400, "token is given without request: the id of a request is needed too"},
                        "request");
    }
    return reply.send(200, kJson, json{{"keep_selection", source.keeps}}.dump());
  }
  const std::string id(request.query_value("request"));
  SelectionStore::Text text;
  if (!source.store.find(id, text)) {
    return send_error(reply, ErrorShape::openai, unknown_request(source, id), "request",
                      "request_not_kept");
  }
  if (!request.query.contains("token")) {
    return reply.send(200, kJson, text_answer(source, id, text).dump());
  }
  const Result<json> answer = token_answer(source, id, request.query_value("token"), text);
  if (!answer.ok()) return send_error(reply, ErrorShape::openai, answer.failure(), "token");
  reply.send(200, kJson, answer.value().dump());
}

void add_dsa_routes(Router& router, Service& service) {
  router.add("GET", "/v1/dsa/selection",
             [&service](const std::shared_ptr<const HttpRequest>& request,
                        const std::shared_ptr<HttpReply>& reply) {
               const ServiceOptions& options = service.options;
               answer_selection({service.selections, service.tokenizer, options.model_names.front(),
                                 options.keep_selection},
                                *request, *reply);
             });
}

}  // namespace fathom::server
