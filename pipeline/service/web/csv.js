// The rows that are shown, as CSV.

const COLUMNS = ["query", "rank", "score", "class_name", "id", "source", "split"];

// RFC 4180; a text that a spreadsheet would take for a formula is quoted as text.
export function cell(value) {
  if (value === null || value === undefined) return "";
  let text = String(value);
  if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

export function csvOf(query, rows) {
  const lines = rows.map((row) => COLUMNS.map((name) => cell({ ...row, query }[name])).join(","));
  return [COLUMNS.join(","), ...lines, ""].join("\r\n");
}

export function download(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
