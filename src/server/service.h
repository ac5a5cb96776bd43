// Service: what the handlers of all protocols use. Everything in it outlives the HTTP server.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "numerics/sampling.h"
#include "runtime/token_engine.h"
#include "server/metrics.h"
#include "server/router.h"
#include "server/selection_store.h"
#include "text/chat.h"
#include "text/grammar/constraint.h"
#include "text/tokenizer.h"

namespace fathom::server {

struct ServiceOptions {
  std::vector<std::string> model_names;  // answers carry the first one
  int64_t created = 0;                   // Unix time of the start, for /v1/models
  Encoding encoding = Encoding::v31;
  int32_t vocab = 0;               // rows of the embedding: limit of the ids in a bias or prompt
  std::vector<int32_t> stop_ids;   // end of sentence
  SamplingParams sampling;         // defaults of requests (the seed is not used)
  bool keep_selection = false;     // keep what the indexer selected for the last requests
  int max_stored_responses = 256;  // of /v1/responses with `store`
  double request_seconds = 0;      // most time of a request from its arrival; 0: no limit
  std::string fingerprint;         // system_fingerprint of answers; empty: null
  OrderedJson tokenizer_info;      // see tokenizer_info.h
  // Whether the prompt states the format of the answer. Nothing: only in the v3.2 encoding, whose
  // models know it.
  std::optional<bool> show_format;
};

struct Service {
  TokenEngine& engine;
  const Tokenizer& tokenizer;
  ConstraintFactory& constraints;
  Metrics& metrics;
  SelectionStore& selections;
  ServiceOptions options;
};

// Each protocol adds its routes; `service` must outlive the router.
void add_openai_routes(Router& router, Service& service);     // chat, completions, models
void add_responses_routes(Router& router, Service& service);  // /v1/responses
void add_anthropic_routes(Router& router, Service& service);  // /v1/messages
void add_utility_routes(Router& router, Service& service);    // tokenize, health, metrics
void add_dsa_routes(Router& router, Service& service);        // /v1/dsa/selection
void add_page_routes(Router& router);                         // the chat page

}  // namespace fathom::server
