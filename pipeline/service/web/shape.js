// A JSON schema in words that a person reads at a glance.

const INDENT = "  ";

// What a value may be, without what it holds: "integer, 1 to 1,000", "string or null".
export function kindOf(schema) {
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return choices.map(kindOf).join(" or ");
  if (Array.isArray(schema.type)) return schema.type.join(" or ");
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" or ");
  if (schema.format === "binary") return "file";
  return `${schema.type ?? "anything"}${boundsOf(schema)}`;
}

function boundsOf({ minimum, maximum, maxLength }) {
  const written = (number) => number.toLocaleString("en");
  // the largest there is, is no bound that tells anything
  const isBounded = maximum !== undefined && maximum < Number.MAX_SAFE_INTEGER;
  if (minimum !== undefined && isBounded) return `, ${written(minimum)} to ${written(maximum)}`;
  if (minimum !== undefined) return `, from ${written(minimum)} on`;
  if (isBounded) return `, at most ${written(maximum)}`;
  return maxLength === undefined ? "" : `, at most ${written(maxLength)} characters`;
}

// The same with all that it holds, in lines.
export function shapeOf(schema, indent = "") {
  const within = indent + INDENT;
  if (schema.properties) {
    const lines = Object.entries(schema.properties).map(([name, value]) =>
      `${within}${JSON.stringify(name)}: ${shapeOf(value, within)}`);
    return `{\n${lines.join(",\n")}\n${indent}}`;
  }
  if (typeof schema.additionalProperties === "object") {
    return `{ name: ${shapeOf(schema.additionalProperties, within)}, … }`;
  }
  if (schema.items) return `[ ${shapeOf(schema.items, indent)}, … ]`;
  return kindOf(schema);
}

// The document with every reference replaced by what it names.
export function resolved(part, whole, depth = 0) {
  if (part === null || typeof part !== "object" || depth > 40) return part;
  if (part.$ref) {
    const named = part.$ref.split("/").slice(1).reduce((at, name) => at?.[name], whole);
    return resolved(named ?? {}, whole, depth + 1);
  }
  if (Array.isArray(part)) return part.map((one) => resolved(one, whole, depth + 1));
  const entries = Object.entries(part).map(([key, value]) => [key, resolved(value, whole, depth + 1)]);
  return Object.fromEntries(entries);
}
