// POST /v1/chat/completions.
#pragma once

#include <memory>

#include "server/http/http.h"
#include "server/service.h"

namespace fathom::server {

void handle_chat_completions(Service& service, const HttpRequest& request,
                             const std::shared_ptr<HttpReply>& reply);

}  // namespace fathom::server
