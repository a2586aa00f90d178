"use strict";

SwaggerUIBundle({
  url: `openapi.json${location.search}`, // ?model=NAME&version=VERSION
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  validatorUrl: null, // it would send the document to another host
  onComplete: () => {
    document.title = document.querySelector("#swagger-ui h1, #swagger-ui h2")?.firstChild?.textContent ?? "API";
  },
});
