"use strict";

sortable(document.querySelector("#job-table"), () => {});
