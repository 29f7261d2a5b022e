"""A contract for import-linter: a package may import only what is named.

import-linter can forbid packages by name; the promise of the core is the other way round ("the standard
library, msgspec and pyroaring"), and must also catch a package that nobody has thought of yet.
"""

import sys

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class AllowlistContract(Contract):
    """Modules under `source_modules` import the standard library, themselves and `allowed_packages`.

    Modules under `exempt_modules` may import anything.
    """

    type_name = "allowlist"

    source_modules = fields.SetField(subfield=fields.StringField())
    allowed_packages = fields.SetField(subfield=fields.StringField())
    exempt_modules = fields.SetField(subfield=fields.StringField(), required=False)

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Collect every direct import of a package that is not allowed."""
        allowed = {*sys.stdlib_module_names, *self.allowed_packages, *self.source_modules}
        exempt = {*(self.exempt_modules or ())}
        exempt |= {module for parent in exempt for module in graph.find_descendants(parent)}
        illegal = []
        for source in sorted(self.source_modules):
            for importer in sorted({source, *graph.find_descendants(source)} - exempt):
                for imported in sorted(graph.find_modules_directly_imported_by(importer)):
                    if imported.partition(".")[0] not in allowed:
                        details = graph.get_import_details(importer=importer, imported=imported)
                        lines = ", ".join(str(detail["line_number"]) for detail in details)
                        illegal.append(f"{importer} -> {imported} (l. {lines})")
        return ContractCheck(kept=not illegal, metadata={"illegal": illegal})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Name each import with its line."""
        for line in check.metadata["illegal"]:
            output.print_error(f"- {line}", bold=False)
        output.new_line()
